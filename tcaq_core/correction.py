"""A linear correction of the predicted noise, by calibrated sampler step.

    eps <- (eps_hat - bias[s, c]) * gain[s, c],    s the step, c the channel.

The bias is taken off before the gain is applied: PTQD's order, where the gain is
1 / (1 + k). Whatever noise is left afterwards has standard deviation
``residual_std[s]``; a stochastic sampler may inject that much less of its own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor, nn

from tcaq_core.quad_schedule import QuadDDIMScheduler
from tcaq_core.timesteps import TimestepCursor


class OutputCorrection(nn.Module):
    """The correction's tables: a row per sampler step, a column per channel.

    The step is the cursor's, so samplers with other steps read the nearest row.
    """

    gain: Float[Tensor, "S C"]
    bias: Float[Tensor, "S C"]
    residual_std: Float[Tensor, "S"]

    def __init__(
        self,
        gain: Float[Tensor, "S C"],
        bias: Float[Tensor, "S C"],
        residual_std: Float[Tensor, "S"],
        *,
        cursor: TimestepCursor,
    ) -> None:
        super().__init__()
        if cursor.steps is None or len(cursor.steps) != len(gain):
            raise ValueError("a correction needs a row for each sampler step")
        if gain.shape != bias.shape or residual_std.shape != gain.shape[:1]:
            raise ValueError("the tables of a correction have different shapes")
        self.cursor = cursor
        self.register_buffer("gain", gain)
        self.register_buffer("bias", bias)
        self.register_buffer("residual_std", residual_std)
        self.is_active = True

    def forward(self, eps_hat: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        """Return the corrected prediction; the input itself where inactive."""
        if not self.is_active:
            return eps_hat
        step = self.cursor.step
        return corrected(eps_hat, self.gain[step], self.bias[step])

    def residual_at(self, timestep: int) -> float:
        """Return the standard deviation of the noise that is left at a timestep."""
        if self.cursor.steps is None or not self.is_active:
            return 0.0
        step = self.cursor.steps.index(torch.tensor(timestep))
        return float(self.residual_std[int(step)])


def corrected(
    eps_hat: Float[Tensor, "N C H W"],
    gain: Float[Tensor, "*#N C"],
    bias: Float[Tensor, "*#N C"],
) -> Float[Tensor, "N C H W"]:
    """Return (eps_hat - bias) * gain, for one row or for a row per sample."""
    return (eps_hat - bias[..., None, None]) * gain[..., None, None]


def correction_of(unet: nn.Module) -> OutputCorrection | None:
    """Return the correction that a denoiser carries, if any."""
    return next((m for m in unet.children() if isinstance(m, OutputCorrection)), None)


def noise_share(
    scheduler: DDIMScheduler, timestep: int, *, eta: float, residual_std: float
) -> float:
    """Return what to multiply DDIM's injected noise with (PTQD, section 3.3).

    x_{t-1} depends on eps with c = sqrt(1 - a_prev - sigma^2)
    - sqrt(a_prev (1 - a_t) / a_t), so c * residual_std of quantization noise is there
    already: sqrt(max(0, sigma^2 - (c residual_std)^2)) / sigma. At eta 0 nothing is
    injected and 1 comes back.
    """
    previous = _previous(scheduler, timestep)
    alphas = scheduler.alphas_cumprod.double()
    a_t = float(alphas[timestep])
    a_prev = float(alphas[previous] if previous >= 0 else scheduler.final_alpha_cumprod)
    variance = eta**2 * (1 - a_prev) / (1 - a_t) * (1 - a_t / a_prev)
    if variance <= 0:
        return 1.0
    direction = max(0.0, 1 - a_prev - variance) ** 0.5
    c = direction - (a_prev * (1 - a_t) / a_t) ** 0.5
    return float(max(0.0, 1 - (c * residual_std) ** 2 / variance) ** 0.5)


def _previous(scheduler: DDIMScheduler, timestep: int) -> int:
    if isinstance(scheduler, QuadDDIMScheduler):
        return scheduler.previous_timestep(timestep)
    step = scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    return int(timestep - step)


@contextmanager
def calibrated_variance(inner: DDPMPipeline | DDIMPipeline) -> Iterator[None]:
    """Let a DDIM pipeline inject less noise where quantization left some (PTQD).

    The draws stay the same, only their size changes. DDPMScheduler takes no noise
    from outside, so a DDPMPipeline keeps its full variance; so does eta 0.
    """
    correction = correction_of(inner.unet)
    left = correction is not None and bool((correction.residual_std > 0).any())
    if correction is None or not left or not isinstance(inner, DDIMPipeline):
        yield
        return
    inner.scheduler.step = _less_noisy(inner.scheduler, correction)
    try:
        yield
    finally:
        del inner.scheduler.step


def _less_noisy(
    scheduler: DDIMScheduler, correction: OutputCorrection
) -> Callable[..., DDIMSchedulerOutput]:
    plain_step = scheduler.step

    def step(
        model_output: Tensor,
        timestep: Tensor | int,
        sample: Tensor,
        *,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = None,
        generator: list[torch.Generator] | None = None,
    ) -> DDIMSchedulerOutput:
        t = int(timestep)
        left = correction.residual_at(t)
        noise = None
        if eta > 0:
            noise = noise_share(
                scheduler, t, eta=eta, residual_std=left
            ) * randn_tensor(
                model_output.shape,
                generator=generator,
                device=model_output.device,
                dtype=model_output.dtype,
            )
        return plain_step(
            model_output,
            timestep,
            sample,
            eta=eta,
            use_clipped_model_output=use_clipped_model_output,
            variance_noise=noise,
        )

    return step

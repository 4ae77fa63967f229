"""What block reconstruction minimises: the block's error and what recipes add to it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tcaq_core.calibration import BlockIO
from tcaq_core.denoiser import quant_layers_in
from tcaq_core.functional import rounding_regularizer
from tcaq_core.learned import AdaRound
from tcaq_core.recipe import PAR, Temporal
from tcaq_core.timesteps import SamplerSteps, TimestepCursor

# How much a new batch counts in the running loss of its timesteps (DMQ: 0.05).
FOCAL_MOMENTUM = 0.05


@dataclass(frozen=True)
class Reconstruction:
    """One block, what it should answer, and who wants to know how it goes."""

    name: str
    block: nn.Module
    io: BlockIO
    config: PAR
    cursor: TimestepCursor
    generator: torch.Generator
    tick: Callable[[], None]


class Objective:
    """The loss of one optimisation run; call it inside `watching`."""

    def __init__(
        self, task: Reconstruction, roundings: list[AdaRound], iterations: int
    ) -> None:
        self._task = task
        self._roundings = roundings
        self._iterations = iterations
        self._steps = SamplerSteps.of_data(task.io.t)
        self._running = torch.zeros(len(self._steps))
        self._seen: dict[str, Tensor] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep what the layers answer whose errors count, while a block runs."""
        layers = quant_layers_in(self._task.block)
        handles = [
            layers[key].register_forward_hook(self._keep(key))
            for key in self._task.io.layers
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def loss(self, at: Int[Tensor, "B"], step: int) -> Float[Tensor, ""]:
        """Return the loss on the calibration inputs `at`, differentiable."""
        task, io = self._task, self._task.io
        with task.cursor.at(io.t[at]):
            out = task.block(*(argument[at] for argument in io.inputs))
        loss = self._weighted(squared_error(out, io.target[at]), io.t[at])
        for key, target in io.layers.items():
            error = squared_error(self._seen[key], target[at]).mean()
            loss = loss + task.config.layer_loss * error
        beta = annealed_beta(step, self._iterations, task.config)
        if beta is not None and task.config.regularizer > 0:
            for rounding in self._roundings:
                penalty = rounding_regularizer(rounding.soft_rounding(), beta=beta)
                loss = loss + task.config.regularizer * penalty
        return loss

    def _keep(self, key: str) -> Callable[..., None]:
        def keep(_module: nn.Module, _args: object, out: Tensor) -> None:
            self._seen[key] = out

        return keep

    def _weighted(
        self, error: Float[Tensor, "B"], t: Int[Tensor, "B"]
    ) -> Float[Tensor, ""]:
        if self._task.config.focal == 0.0:
            return error.mean()
        step = self._steps.index(t).cpu()
        share = self._running / self._running.sum().clamp(min=1e-30)
        weight = (1 - share[step]).pow(self._task.config.focal).to(error.device)
        for s, e in zip(step.tolist(), error.detach().cpu(), strict=True):
            self._running[s] += FOCAL_MOMENTUM * (e - self._running[s])
        return (weight * error).mean()


def squared_error(
    out: Float[Tensor, "N *S"], target: Float[Tensor, "N *S"]
) -> Float[Tensor, "N"]:
    """Return each sample's error summed over channels, mean over the rest.

    The channel is the second dimension of a feature map, the last of tokens.
    """
    error = (out - target).square().sum(-1 if out.ndim == 3 else 1)
    return error.flatten(1).mean(1) if error.ndim > 1 else error


def annealed_beta(step: int, iterations: int, config: PAR | Temporal) -> float | None:
    """Return the regulariser's exponent at a step; None during the warm-up."""
    start = config.warmup * iterations
    if step < start:
        return None
    high, low = config.beta
    return low + (high - low) * (1 - (step - start) / (iterations - start))

"""Quantization of what changed since the sampler's last step (MoDiff, ICML 2025).

    a_hat[t] = a_hat[t+1] + Q_t(a[t] - a_hat[t+1]),    o[t] = A a_hat[t] + b.

The layer A is linear, so this is the same as keeping its output and adding what the
quantized difference contributes, o[t] = o[t+1] + A Q_t(a[t] - a_hat[t+1]): the form
that integer kernels execute. Here the layer runs on a_hat. The error of a step is
part of the next step's difference, so it is corrected and never piles up.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tcaq_core.functional import affine_params, fake_quantize_samples
from tcaq_core.quantizers import UniformQuantizer
from tcaq_core.timesteps import TimestepCursor

# The first step has no predecessor. MoDiff leaves it in full precision; eight bits,
# with the range of each sample, keep it executable on integers.
FIRST_STEP_BITS = 8


@dataclass(frozen=True)
class Held:
    """What a quantizer knows of the step before."""

    a_hat: Tensor
    t: Int[Tensor, "N"]


class DifferenceQuantizer(nn.Module):
    """Stands where a layer's input quantizer stood, and follows one trajectory.

    With a `grid` the differences lie on its table by sampler step; without, on the
    range of each sample's own difference, measured as it comes. Both have codes of
    `num_bits` bits. No sample's range depends on what else is in its batch.
    """

    def __init__(
        self,
        num_bits: int,
        *,
        cursor: TimestepCursor,
        parts: tuple[int, ...],
        is_static: bool,
    ) -> None:
        super().__init__()
        self.num_bits = num_bits
        self.cursor = cursor
        self.parts = parts
        """Channels of each part with grids of its own; empty: one part."""
        self.grid = UniformQuantizer(num_bits, cursor=cursor) if is_static else None
        if self.grid is not None:
            self.grid.parts = parts
        self.held: Held | None = None
        self.is_active = True

    def forward(self, x: Float[Tensor, "N *S"]) -> Float[Tensor, "N *S"]:
        """Return a_hat, the input as the quantized differences add up to it.

        Inactive, it hands x on and remembers nothing: full precision evaluated within
        a trajectory does not disturb it.
        """
        if not self.is_active:
            return x
        before = self.before(x)
        if before is None:
            a_hat = self._on_own_range(x, num_bits=FIRST_STEP_BITS)
        else:
            a_hat = before + self._quantized(x - before)
        self.held = Held(a_hat.detach(), self.cursor.t)
        return a_hat

    def before(self, x: Float[Tensor, "N *S"]) -> Float[Tensor, "N *S"] | None:
        """Return the a_hat that x continues; None at the start of a trajectory.

        A sampler gives a whole batch one timestep, and timesteps fall: another shape,
        timesteps that differ, or one that did not fall belong to something else.
        """
        held, t = self.held, self.cursor.t
        if held is None or held.a_hat.shape != x.shape:
            return None
        falls = (t < held.t) & (t == t[0]) & (held.t == held.t[0])
        return held.a_hat if bool(falls.all()) else None

    def _quantized(self, difference: Float[Tensor, "N *S"]) -> Float[Tensor, "N *S"]:
        if self.grid is None:
            return self._on_own_range(difference, num_bits=self.num_bits)
        quantized: Tensor = self.grid(difference)
        return quantized

    def _on_own_range(
        self, x: Float[Tensor, "N *S"], *, num_bits: int
    ) -> Float[Tensor, "N *S"]:
        pieces = x.split(self.parts, dim=1) if len(self.parts) > 1 else (x,)
        on_grids = [on_own_range(piece, num_bits=num_bits) for piece in pieces]
        return on_grids[0] if len(on_grids) == 1 else torch.cat(on_grids, dim=1)


def on_own_range(x: Float[Tensor, "N *S"], *, num_bits: int) -> Float[Tensor, "N *S"]:
    """Return each sample of x on the grid that covers its own range."""
    low, high = torch.aminmax(x.flatten(1), dim=1)
    params = affine_params(low, high, num_bits=num_bits)
    return fake_quantize_samples(x, params.scale, params.zero_point, num_bits=num_bits)


def differences_in(module: nn.Module) -> dict[str, DifferenceQuantizer]:
    """Return the difference quantizers inside a module, by their name within it."""
    return {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, DifferenceQuantizer)
    }


def forget_trajectory(module: nn.Module) -> None:
    """Let every difference quantizer start anew with its next input."""
    for quantizer in differences_in(module).values():
        quantizer.held = None


@contextmanager
def fresh_trajectory(module: nn.Module) -> Iterator[None]:
    """Run a block that samples one batch: nothing is carried in, nothing kept."""
    forget_trajectory(module)
    try:
        yield
    finally:
        forget_trajectory(module)


class Lanes:
    """Several batches that go through one denoiser in lockstep, step by step."""

    def __init__(self, module: nn.Module) -> None:
        self._quantizers = differences_in(module)
        self._held: dict[int, dict[str, Held | None]] = {}

    @contextmanager
    def lane(self, index: int) -> Iterator[None]:
        """Run a block on what one lane holds; keep what it holds afterwards."""
        held = self._held.get(index, {})
        for name, quantizer in self._quantizers.items():
            quantizer.held = held.get(name)
        try:
            yield
        finally:
            self._held[index] = {n: q.held for n, q in self._quantizers.items()}
            for quantizer in self._quantizers.values():
                quantizer.held = None

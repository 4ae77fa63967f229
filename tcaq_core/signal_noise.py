"""How much of each layer's output is signal and how much is quantization noise.

Calibration inputs run through the denoiser twice, in full precision and with
everything that is quantized so far; SNR = 10 log10(sum z^2 / sum (z_hat - z)^2) in dB.

Looking changes nothing: no randomness is drawn and no parameter is written.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tcaq_core.calibration import CalibrationSet
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.difference import differences_in, fresh_trajectory
from tcaq_core.timesteps import SamplerSteps, TimestepGroups

# Three inputs a group, each of thousands of values: enough for a decibel.
NUM_INPUTS: Final = 32
# One batch of every layer's full-precision answers is kept at a time.
BATCH_SIZE: Final = 8
# Decibels are read by people; more digits would only make a report larger.
DIGITS: Final = 2

Decibel = float | None
"""None where there is no finite number: no error at all, no signal, or NaN."""


@dataclass(frozen=True)
class Energy:
    """Sums of squares of one tensor and of its error, by timestep group."""

    signal: Float[Tensor, "G"]
    noise: Float[Tensor, "G"]

    @classmethod
    def none(cls, groups: TimestepGroups, device: torch.device) -> "Energy":
        """Return sums of nothing."""
        # Float64: a feature map has a million values, and errors differ by decades.
        zeros = torch.zeros(groups.num_groups, dtype=torch.float64, device=device)
        return cls(zeros, zeros.clone())

    def add(self, z: Tensor, z_hat: Tensor, group: Int[Tensor, "N"]) -> None:
        """Add one batch: full precision's answer and the quantized one."""
        for total, x in ((self.signal, z), (self.noise, z_hat - z)):
            energy = x.flatten(1).square().sum(1, dtype=torch.float64)
            # Group by group: the order of additions is the same on every device.
            for g in group.unique().tolist():
                total[g] += energy[group == g].sum()

    def decibels(self, groups: list[int]) -> tuple[Decibel, ...]:
        """Return 10 log10 of their ratio for some groups."""
        ratio = 10 * torch.log10(self.signal / self.noise)
        return tuple(_finite(float(ratio[g])) for g in groups)


@torch.no_grad()
def measure(
    denoiser: QuantizedDenoiser,
    data: CalibrationSet,
    groups: TimestepGroups,
    *,
    tick: Callable[[], None],
) -> dict[str, Energy]:
    """Return every layer's energies by name; the predicted noise's under ``""``.

    One batch's full-precision answers are kept at a time. Layers that do not run, or
    only in one of the two modes, are left out.
    """
    with fresh_trajectory(denoiser.unet):
        return _measure(denoiser, probe_batches(denoiser, data), groups, tick)


def probe_batches(
    denoiser: QuantizedDenoiser, data: CalibrationSet
) -> list[CalibrationSet]:
    """Return the inputs to look at, spread over trajectories and timesteps.

    Layers that quantize what changed since the last step are shown whole trajectories
    instead, step by step, at least one.
    """
    if not differences_in(denoiser.unet):
        return list(data.thin(NUM_INPUTS).batches(BATCH_SIZE))
    timesteps = SamplerSteps.of_data(data.t).timesteps
    num_trajectories = max(1, NUM_INPUTS // len(timesteps))
    # Ordered by step, then by trajectory: the first ones of every step belong together.
    found = [(data.t == t).nonzero()[:num_trajectories, 0] for t in timesteps]
    return [CalibrationSet(data.x_t[at], data.t[at]) for at in found]


def _measure(
    denoiser: QuantizedDenoiser,
    batches: list[CalibrationSet],
    groups: TimestepGroups,
    tick: Callable[[], None],
) -> dict[str, Energy]:
    layers: dict[str, nn.Module] = dict(denoiser.quant_layers())
    found: dict[str, Energy] = {}
    for batch in batches:
        tick()
        exact: dict[str, Tensor] = {}
        with denoiser.full_precision(), _answers(layers, exact.__setitem__):
            exact[""] = denoiser(batch.x_t, batch.t)
        group = groups.of(batch.t)

        def compare(
            name: str,
            z_hat: Tensor,
            exact: dict[str, Tensor] = exact,
            group: Int[Tensor, "N"] = group,
        ) -> None:
            if (z := exact.pop(name, None)) is not None:
                if name not in found:
                    found[name] = Energy.none(groups, z.device)
                found[name].add(z, z_hat, group)

        with _answers(layers, compare):
            compare("", denoiser(batch.x_t, batch.t))
    return found


@contextmanager
def _answers(
    modules: Mapping[str, nn.Module], see: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Call `see(name, output)` whenever one of the modules has run."""

    def hook_of(name: str) -> Callable[..., None]:
        return lambda _module, _args, out: see(name, out)

    handles = [m.register_forward_hook(hook_of(n)) for n, m in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _finite(value: float) -> Decibel:
    return round(value, DIGITS) if math.isfinite(value) else None

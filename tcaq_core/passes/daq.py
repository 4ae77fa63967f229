"""Dynamically adaptive quantizer of post-softmax maps (TCAQ-DM, "DAQ").

Post-softmax maps drift towards a power law as denoising proceeds, so each attention
chooses between a uniform and a log2 grid for every timestep group on its own.

Invariant: the error of the attention output on the calibration data never grows
(``output_error``); ``likelihood_ratio`` is the paper's rule, which does not promise it.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tcaq_core.calibration import CalibrationSet, watching_all
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.functional import power_law_log_likelihood_ratio
from tcaq_core.quantizers import Grid, SoftmaxQuantizer, grid_scale, softmax_grid
from tcaq_core.recipe import DAQ
from tcaq_core.timesteps import TimestepGroups

GRIDS: tuple[Grid, ...] = ("uniform", "log2")
# A map's largest value is at most 1; smaller peaks trade clipping for resolution.
# Powers of two keep the log2 grid's codes pure shifts.
PEAKS = tuple(2.0**-k for k in range(8))
# Values of each call's map that enter the likelihood ratio.
VALUES_PER_CALL = 4096


@dataclass(frozen=True)
class Choice:
    """The grid of one attention in one timestep group."""

    grid: Grid
    peak: float


@dataclass
class Evidence:
    """What one attention shows in one timestep group."""

    peak: float = 0.0
    values: list[Tensor] = field(default_factory=list)
    errors: dict[Choice, float] = field(default_factory=dict)


def apply(
    denoiser: QuantizedDenoiser,
    data: CalibrationSet,
    config: DAQ,
    *,
    generator: torch.Generator,
) -> dict[str, list[str]]:
    """Choose a grid per attention and timestep group; return the kinds by name."""
    groups = TimestepGroups(denoiser.num_timesteps, config.num_groups)
    evidence = gather(denoiser, data, groups, generator=generator)
    chosen: dict[str, list[str]] = {}
    for name, _, processor in denoiser.attentions():
        visited = {g: choose(e, config) for g, e in evidence[name].items()}
        choices = [visited[_nearest(g, visited)] for g in range(config.num_groups)]
        device = data.x_t.device
        processor.softmax_quantizer.fit(
            torch.tensor([c.peak for c in choices], device=device),
            torch.tensor([c.grid == "log2" for c in choices], device=device),
        )
        chosen[name] = [c.grid for c in choices]
    return chosen


def choose(evidence: Evidence, config: DAQ) -> Choice:
    """Return the grid that the configured rule prefers."""
    match config.select:
        case "likelihood_ratio":
            ratio = power_law_log_likelihood_ratio(torch.cat(evidence.values))
            return Choice("log2" if ratio > 0 else "uniform", evidence.peak)
        case "output_error":
            return min(evidence.errors, key=lambda c: evidence.errors[c])


@torch.no_grad()
def gather(
    denoiser: QuantizedDenoiser,
    data: CalibrationSet,
    groups: TimestepGroups,
    *,
    generator: torch.Generator,
) -> dict[str, dict[int, Evidence]]:
    """Return, per attention and visited group, what full precision shows."""
    mixes = {name: processor.mix for name, _, processor in denoiser.attentions()}
    found: dict[str, dict[int, Evidence]] = {name: {} for name in mixes}

    fitted = {name: _fitted(mix.softmax_quantizer) for name, mix in mixes.items()}

    def see(name: str, args: tuple[Tensor, ...]) -> None:
        attention, v = args
        group = groups.of(denoiser.cursor.t)
        bits = mixes[name].softmax_quantizer.num_bits
        for g in group.unique().tolist():
            evidence = found[name].setdefault(g, Evidence())
            at = group == g
            look(
                evidence,
                attention[at],
                v[at],
                fitted=fitted[name],
                bits=bits,
                generator=generator,
            )

    watched: dict[str, nn.Module] = dict(mixes)
    with denoiser.full_precision(), watching_all(watched, see):
        for batch in data.batches():
            denoiser(batch.x_t, batch.t)
    return found


def look(
    evidence: Evidence,
    attention: Tensor,
    v: Tensor,
    *,
    fitted: Choice,
    bits: int,
    generator: torch.Generator,
) -> None:
    """Add what one map and its values (N, heads, L, L), (N, heads, L, d) show."""
    flat = attention.flatten()
    count = min(VALUES_PER_CALL, flat.numel())
    at = torch.randint(flat.numel(), (count,), generator=generator)
    evidence.values.append(flat[at.to(flat.device)])
    evidence.peak = max(evidence.peak, float(flat.max()))
    exact = attention @ v
    for choice in (fitted, *(Choice(g, peak) for g in GRIDS for peak in PEAKS)):
        scale = grid_scale(v.new_tensor(choice.peak), choice.grid, num_bits=bits)
        out = softmax_grid(attention, scale, choice.grid, num_bits=bits) @ v
        error = float((out - exact).square().double().sum())
        evidence.errors[choice] = evidence.errors.get(choice, 0.0) + error


def _fitted(quantizer: SoftmaxQuantizer) -> Choice:
    # What fit_ranges chose is a candidate too: that makes the invariant true.
    return Choice("uniform", float(quantizer.scale[0]) * (2**quantizer.num_bits - 1))


def _nearest(group: int, visited: dict[int, Choice]) -> int:
    # A group that calibration never visited takes the choice of its neighbour.
    return min(visited, key=lambda g: (abs(g - group), g))

"""Dynamically adaptive quantizer of post-softmax maps (TCAQ-DM, "DAQ").

Post-softmax maps drift towards a power law as denoising proceeds, so each attention
chooses a uniform grid or a logarithmic one for every timestep group on its own.

Invariant: the error of the attention output on the calibration data never grows
(``output_error`` with uniform among its grids, on the queries examined: each map's
rows are independent, and 64 of them tell as much); ``likelihood_ratio`` is the paper's
rule and does not promise it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tcaq_core.calibration import CalibrationSet, watching_all
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.functional import power_law_log_likelihood_ratio
from tcaq_core.quantizers import SoftmaxQuantizer, grid_scale, softmax_grid
from tcaq_core.recipe import DAQ, SoftmaxGrid
from tcaq_core.timesteps import TimestepGroups

# The logarithms of the bases that each kind of grid may have; zero: uniform.
# AdaLog's base is 2^(k/37) with k searched; these k span what 4 to 8 bits can use.
LOG_STEPS: dict[SoftmaxGrid, tuple[float, ...]] = {
    "uniform": (0.0,),
    "log2": (1.0,),
    "log_sqrt2": (0.5,),
    "adaptive": tuple(k / 37 for k in (2, 4, 7, 11, 15, 25)),
}
# A map's largest value is at most 1; smaller peaks trade clipping for resolution.
# Powers of two keep the log2 grid's codes pure shifts.
PEAKS = tuple(2.0**-k for k in range(8))
# Values of each call's map that enter the likelihood ratio.
VALUES_PER_CALL = 4096
# Samples and queries of each call's map on which candidates are compared.
SAMPLES = 8
QUERIES = 64


@dataclass(frozen=True)
class Choice:
    """The grid of one attention in one timestep group."""

    log_step: float
    """Logarithm of the base; zero for a uniform grid."""
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
    evidence = gather(denoiser, data, groups, config, generator=generator)
    chosen: dict[str, list[str]] = {}
    for name, _, processor in denoiser.attentions():
        visited = {g: choose(e, config) for g, e in evidence[name].items()}
        choices = [visited[_nearest(g, visited)] for g in range(config.num_groups)]
        device = data.x_t.device
        processor.softmax_quantizer.fit(
            torch.tensor([c.peak for c in choices], device=device),
            torch.tensor([c.log_step for c in choices], device=device),
        )
        chosen[name] = [f"{c.log_step:.3f}" for c in choices]
    return chosen


def choose(evidence: Evidence, config: DAQ) -> Choice:
    """Return the grid that the configured rule prefers."""
    match config.select:
        case "likelihood_ratio":
            ratio = power_law_log_likelihood_ratio(torch.cat(evidence.values))
            return Choice(1.0 if ratio > 0 else 0.0, evidence.peak)
        case "output_error":
            return min(evidence.errors, key=lambda c: evidence.errors[c])


def candidates_of(config: DAQ) -> list[Choice]:
    """Return every grid whose error decides: none where the likelihood does."""
    if config.select == "likelihood_ratio":
        return []
    return [
        Choice(log_step, peak)
        for grid in config.grids
        for log_step in LOG_STEPS[grid]
        for peak in PEAKS
    ]


@torch.no_grad()
def gather(
    denoiser: QuantizedDenoiser,
    data: CalibrationSet,
    groups: TimestepGroups,
    config: DAQ,
    *,
    generator: torch.Generator,
) -> dict[str, dict[int, Evidence]]:
    """Return, per attention and visited group, what full precision shows."""
    mixes = {name: processor.mix for name, _, processor in denoiser.attentions()}
    found: dict[str, dict[int, Evidence]] = {name: {} for name in mixes}
    candidates = candidates_of(config)
    # What fit_ranges chose is a candidate too: that makes the invariant true.
    fitted = {
        name: [_fitted(mix.softmax_quantizer)] if "uniform" in config.grids else []
        for name, mix in mixes.items()
    }

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
                candidates=[*fitted[name], *candidates],
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
    candidates: Sequence[Choice],
    bits: int,
    generator: torch.Generator,
) -> None:
    """Add what one map and its values (N, heads, L, L), (N, heads, L, d) show."""
    flat = attention.flatten()
    count = min(VALUES_PER_CALL, flat.numel())
    at = torch.randint(flat.numel(), (count,), generator=generator)
    evidence.values.append(flat[at.to(flat.device)])
    evidence.peak = max(evidence.peak, float(flat.max()))
    some = slice(None, None, -(-len(v) // SAMPLES))
    v = v[some]
    queries = attention[some, :, :: max(1, attention.shape[2] // QUERIES)]
    exact = queries @ v
    for choice in candidates:
        scale = grid_scale(
            v.new_tensor(choice.peak), v.new_tensor(choice.log_step), num_bits=bits
        )
        a_hat = softmax_grid(queries, scale, log_step=choice.log_step, num_bits=bits)
        out = a_hat @ v
        error = float((out - exact).square().double().sum())
        evidence.errors[choice] = evidence.errors.get(choice, 0.0) + error


def _fitted(quantizer: SoftmaxQuantizer) -> Choice:
    return Choice(0.0, float(quantizer.scale[0]) * (2**quantizer.num_bits - 1))


def _nearest(group: int, visited: dict[int, Choice]) -> int:
    # A group that calibration never visited takes the choice of its neighbour.
    return min(visited, key=lambda g: (abs(g - group), g))

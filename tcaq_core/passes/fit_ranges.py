"""Ranges of every quantizer: min-max, percentile (RepQ-ViT) or MSE search (BRECQ).

Invariant: touches quantizer parameters only; full-precision weights and factors stay
as they are.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tcaq_core.calibration import CalibrationSet
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.errors import CalibrationFailed
from tcaq_core.functional import AffineParams, fake_quantize, lp_loss, weight_params
from tcaq_core.layers import QuantLayer
from tcaq_core.observation import Seen, observe
from tcaq_core.quantizers import SoftmaxQuantizer, UniformQuantizer
from tcaq_core.ranges import POWER, group_ranges, shared_range, step_ranges
from tcaq_core.recipe import FitRanges
from tcaq_core.schedules import (
    Tensors,
    learn_functions,
    learn_groups,
    spread_ranges,
    tensors_of,
)
from tcaq_core.timesteps import SamplerSteps

# BRECQ's search: 80 shrink factors 1, 0.99, ... under the L2.4 norm.
SHRINKS = 80


def apply(
    denoiser: QuantizedDenoiser,
    data: CalibrationSet,
    config: FitRanges,
    *,
    generator: torch.Generator,
) -> None:
    """Fit weights first, then every activation from the data; all become active."""
    for name, layer in denoiser.quant_layers():
        fit_weight(name, layer, config)
    fit_activations(denoiser, data, config, generator=generator)


def fit_weight(name: str, layer: QuantLayer, config: FitRanges) -> None:
    """Choose the range of each output channel of one layer.

    Raises:
        CalibrationFailed: the weight has NaN or infinite values.
    """
    if not bool(torch.isfinite(layer.full_weight()).all()):
        raise CalibrationFailed(
            f"The weight of {name} has NaN or infinite values.",
            hint="The model itself is broken; no quantization can repair it.",
        )
    lows, highs = [], []
    for part in layer.full_weight().split(layer.parts, dim=1):
        rows = part.flatten(1)
        low, high = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)
        if config.weight == "mse":
            low, high = _search_weight(rows, low, high, bits=layer.bits.weight_bits)
        lows.append(low)
        highs.append(high)
    layer.fit_weight(torch.stack(lows, dim=1), torch.stack(highs, dim=1))


def _search_weight(
    weight: Float[Tensor, "D I"],
    low: Float[Tensor, "D"],
    high: Float[Tensor, "D"],
    *,
    bits: int,
) -> tuple[Tensor, Tensor]:
    best = torch.full_like(low, torch.inf)
    chosen = torch.ones_like(low)
    for i in range(SHRINKS):
        shrink = 1 - 0.01 * i
        params = weight_params(low * shrink, high * shrink, num_bits=bits)
        column = AffineParams(params.scale[:, None], params.zero_point[:, None])
        weight_hat = fake_quantize(weight, column, num_bits=bits)
        loss = lp_loss(weight_hat, weight, power=POWER, dim=1)
        better = loss < best
        best = torch.where(better, loss, best)
        chosen = torch.where(better, shrink, chosen)
    return low * chosen, high * chosen


@torch.no_grad()
def fit_activations(
    denoiser: QuantizedDenoiser,
    data: CalibrationSet,
    config: FitRanges,
    *,
    generator: torch.Generator,
) -> None:
    """Fit every activation grid on what full precision shows it."""
    uniform = denoiser.activation_quantizers()
    softmax = {n: p.softmax_quantizer for n, _, p in denoiser.attentions()}
    watched: dict[str, UniformQuantizer | SoftmaxQuantizer] = {**uniform, **softmax}
    seen = observe(denoiser, data, watched, generator=generator)
    for name, grid in softmax.items():
        _, peak = shared_range(seen[name, 0], config.activation, num_bits=grid.num_bits)
        grid.fit(peak.reshape(1), torch.zeros(1, device=peak.device))
    grids = [
        (quantizer, [seen[name, p] for p in range(max(1, len(quantizer.parts)))])
        for name, quantizer in uniform.items()
    ]
    steps = SamplerSteps.of_data(data.t)
    if config.timesteps != "shared":
        denoiser.cursor.steps = steps
    match config.timesteps:
        case "shared" | "step":
            for quantizer, parts in grids:
                fit_grid(quantizer, parts, config)
        case "function":
            ends = learn_functions(
                _tensors(grids, config, generator),
                steps,
                num_timesteps=denoiser.num_timesteps,
                generator=generator,
            )
            for (quantizer, _), table in zip(grids, _by_grid(ends, grids), strict=True):
                quantizer.fit(table[0], table[1])
        case "groups":
            fit_groups(grids, config, generator=generator)


Grid = tuple[UniformQuantizer, list[Seen]]
"""A quantizer and what calibration showed of each of its parts."""


def fit_grid(quantizer: UniformQuantizer, seen: list[Seen], config: FitRanges) -> None:
    """Fit one quantizer's table of grids: a row per step or one, a column per part."""
    bits, criterion = quantizer.num_bits, config.activation
    if config.timesteps == "step":
        ranges = [step_ranges(s, criterion, num_bits=bits) for s in seen]
        table = torch.stack(ranges, dim=2)  # (2, R, P)
    else:
        pairs = [shared_range(s, criterion, num_bits=bits) for s in seen]
        table = torch.stack([torch.stack(pair) for pair in pairs], dim=1)[:, None]
    quantizer.fit(table[0], table[1])


def fit_groups(
    grids: Sequence[Grid], config: FitRanges, *, generator: torch.Generator
) -> None:
    """Give each quantizer a few grids and the learned assignment of steps to them."""
    tensors = _tensors(grids, config, generator)
    part_of = [a for a, (_, parts) in enumerate(grids) for _ in parts]
    seen = [item for _, parts in grids for item in parts]
    groups = learn_groups(
        tensors,
        spread_ranges(tensors, seen, num_groups=config.num_groups),
        torch.tensor(part_of, device=tensors.width.device),
        generator=generator,
    )
    for (quantizer, parts), group_of_step in zip(grids, groups, strict=True):
        # Groups that no step chose are dropped: rows are those in use.
        _, rows = group_of_step.unique(return_inverse=True)
        ranges = [
            group_ranges(
                item, rows.tolist(), config.activation, num_bits=quantizer.num_bits
            )
            for item in parts
        ]
        table = torch.stack(ranges, dim=2)
        quantizer.fit(table[0], table[1], row_of_step=rows)


def _tensors(
    grids: Sequence[Grid], config: FitRanges, generator: torch.Generator
) -> Tensors:
    seen = [item for _, parts in grids for item in parts]
    bits = [quantizer.num_bits for quantizer, parts in grids for _ in parts]
    shared = [
        shared_range(item, config.activation, num_bits=num_bits)
        for item, num_bits in zip(seen, bits, strict=True)
    ]
    return tensors_of(seen, shared, bits, generator=generator)


def _by_grid(
    ends: Float[Tensor, "2 Q T"], grids: Sequence[Grid]
) -> list[Float[Tensor, "2 T P"]]:
    pieces = ends.split([len(parts) for _, parts in grids], dim=1)
    return [piece.transpose(1, 2) for piece in pieces]

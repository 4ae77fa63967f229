"""Ranges of every quantizer: min-max, percentile (RepQ-ViT) or MSE search (BRECQ).

Invariant: touches quantizer parameters only; full-precision weights and factors stay
as they are.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tcaq_core.calibration import CalibrationSet
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.errors import CalibrationFailed
from tcaq_core.functional import (
    AffineParams,
    affine_params,
    fake_quantize,
    lp_loss,
    weight_params,
)
from tcaq_core.layers import QuantLayer
from tcaq_core.observation import Seen, observe
from tcaq_core.quantizers import SoftmaxQuantizer, UniformQuantizer
from tcaq_core.recipe import FitRanges
from tcaq_core.timesteps import SamplerSteps

# BRECQ's search: 80 shrink factors 1, 0.99, ... under the L2.4 norm.
SHRINKS = 80
POWER = 2.4
# RepQ-ViT's candidates.
QUANTILES = (0.999, 0.9999, 0.99999)
# The MSE search over activations shrinks both ends on their own: after SiLU the lower
# end is -0.28 whatever the upper one is.
HIGH_SHRINKS = tuple(1 - 0.04 * i for i in range(20))
LOW_SHRINKS = tuple(1 - 0.1 * i for i in range(8))
# torch.quantile sorts at most 2^24 values; a tenth of that is plenty.
MAX_VALUES = 2**20


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
    for name, quantizer in uniform.items():
        parts = range(max(1, len(quantizer.parts)))
        fit_grid(quantizer, [seen[name, part] for part in parts], config)
    for name, grid in softmax.items():
        _, peak = shared_range(seen[name, 0], config, num_bits=grid.num_bits)
        grid.fit(peak.reshape(1), torch.zeros(1, device=peak.device))
    if config.timesteps != "shared":
        denoiser.cursor.steps = SamplerSteps.of_data(data.t)


def fit_grid(quantizer: UniformQuantizer, seen: list[Seen], config: FitRanges) -> None:
    """Fit one quantizer's table of grids: a row per step or one, a column per part."""
    num_bits = quantizer.num_bits
    match config.timesteps:
        case "shared":
            ranges = [
                torch.stack(shared_range(s, config, num_bits=num_bits)) for s in seen
            ]
            table = torch.stack(ranges, dim=1)[:, None]  # (2, R, P)
        case "step":
            ranges = [step_ranges(s, config, num_bits=num_bits) for s in seen]
            table = torch.stack(ranges, dim=2)
        case "function" | "groups":
            raise NotImplementedError
    quantizer.fit(table[0], table[1])


def shared_range(
    seen: Seen, config: FitRanges, *, num_bits: int
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the one range for all timesteps that the criterion prefers."""
    return choose_range(
        seen.pooled(), seen.low.amin(), seen.high.amax(), config, num_bits=num_bits
    )


def step_ranges(
    seen: Seen, config: FitRanges, *, num_bits: int
) -> Float[Tensor, "2 T"]:
    """Return each sampler step's own range."""
    ranges = [
        choose_range(torch.cat(values), low, high, config, num_bits=num_bits)
        for values, low, high in zip(seen.values, seen.low, seen.high, strict=True)
    ]
    return torch.stack([torch.stack(pair) for pair in ranges], dim=1)


def choose_range(
    values: Float[Tensor, "M"],
    low: Float[Tensor, ""],
    high: Float[Tensor, ""],
    config: FitRanges,
    *,
    num_bits: int,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the range that the configured criterion prefers for these values."""
    if config.activation == "min_max":
        return low, high
    values = values[:: -(-values.numel() // MAX_VALUES)]
    if config.activation == "percentile":
        candidates = [
            (torch.quantile(values, 1 - q), torch.quantile(values, q))
            for q in QUANTILES
        ]
        power = 2.0
    else:
        candidates = [(low * a, high * b) for a in LOW_SHRINKS for b in HIGH_SHRINKS]
        power = POWER
    losses = torch.stack(
        [_range_loss(values, *c, num_bits=num_bits, power=power) for c in candidates]
    )
    return candidates[int(losses.argmin())]


def _range_loss(
    values: Float[Tensor, "M"],
    low: Float[Tensor, ""],
    high: Float[Tensor, ""],
    *,
    num_bits: int,
    power: float,
) -> Float[Tensor, ""]:
    params = affine_params(low, high, num_bits=num_bits)
    values_hat = fake_quantize(values, params, num_bits=num_bits)
    return lp_loss(values_hat, values, power=power, dim=0)

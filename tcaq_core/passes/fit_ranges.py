"""Ranges of every quantizer: min-max, percentile (RepQ-ViT) or MSE search (BRECQ).

Invariant: touches quantizer parameters only; full-precision weights and factors stay
as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tcaq_core.calibration import CalibrationSet, watching
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
from tcaq_core.recipe import FitRanges

# BRECQ's search: 80 shrink factors 1, 0.99, ... under the L2.4 norm.
SHRINKS = 80
POWER = 2.4
# RepQ-ViT's candidates.
QUANTILES = (0.999, 0.9999, 0.99999)
# The MSE search over activations shrinks both ends on their own: after SiLU the lower
# end is -0.28 whatever the upper one is.
HIGH_SHRINKS = tuple(1 - 0.04 * i for i in range(20))
LOW_SHRINKS = tuple(1 - 0.1 * i for i in range(8))
# Values kept per watched tensor and batch: enough for a 1e-4 quantile over a run.
VALUES_PER_BATCH = 4096
# torch.quantile sorts at most 2^24 values; a tenth of that is plenty.
MAX_VALUES = 2**20


@dataclass
class Seen:
    """The range of a tensor over the calibration data, and a sample of its values."""

    low: Tensor
    high: Tensor
    values: list[Tensor]


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
    weight = layer.full_weight().flatten(1)  # (D, C * K)
    if not bool(torch.isfinite(weight).all()):
        raise CalibrationFailed(
            f"The weight of {name} has NaN or infinite values.",
            hint="The model itself is broken; no quantization can repair it.",
        )
    low, high = weight.amin(1).clamp(max=0), weight.amax(1).clamp(min=0)
    if config.weight == "mse":
        low, high = _search_weight(weight, low, high, bits=layer.bits.weight_bits)
    layer.fit_weight(low, high)


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
    seen = observe(denoiser, data, {**uniform, **softmax}, generator=generator)
    for name, quantizer in uniform.items():
        low, high = choose_range(seen[name], config, num_bits=quantizer.num_bits)
        quantizer.fit(low, high)
    for name, grid in softmax.items():
        _, peak = choose_range(seen[name], config, num_bits=grid.num_bits)
        is_log2 = torch.zeros(1, dtype=torch.bool, device=peak.device)
        grid.fit(peak.reshape(1), is_log2)


def observe(
    denoiser: QuantizedDenoiser,
    data: CalibrationSet,
    quantizers: Mapping[str, nn.Module],
    *,
    generator: torch.Generator,
) -> dict[str, Seen]:
    """Watch what each quantizer would be given, in full precision.

    Raises:
        CalibrationFailed: a tensor has NaN or infinite values.
    """
    seen: dict[str, Seen] = {}

    def see(name: str, x: Tensor) -> None:
        low, high = torch.aminmax(x)
        flat = x.flatten()
        count = min(VALUES_PER_BATCH, flat.numel())
        at = torch.randint(flat.numel(), (count,), generator=generator)
        known = seen.setdefault(name, Seen(low, high, []))
        known.low, known.high = known.low.minimum(low), known.high.maximum(high)
        known.values.append(flat[at.to(flat.device)])

    with denoiser.full_precision(), watching(quantizers, see):
        for batch in data.batches():
            denoiser(batch.x_t, batch.t)
    for name in quantizers:
        if name not in seen:
            raise CalibrationFailed(
                f"{name} never ran during calibration.",
                hint="Add its layer to the recipe's skip list.",
            )
        found = seen[name]
        if not bool(torch.isfinite(found.high - found.low)):
            raise CalibrationFailed(
                f"The tensor at {name} has NaN or infinite values.",
                hint="Check the model in float32 and the calibration noise.",
            )
    return seen


def choose_range(
    seen: Seen, config: FitRanges, *, num_bits: int
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the range that the configured criterion prefers."""
    if config.activation == "min_max":
        return seen.low, seen.high
    values = torch.cat(seen.values)
    values = values[:: -(-values.numel() // MAX_VALUES)]
    if config.activation == "percentile":
        candidates = [
            (torch.quantile(values, 1 - q), torch.quantile(values, q))
            for q in QUANTILES
        ]
        power = 2.0
    else:
        candidates = [
            (seen.low * a, seen.high * b) for a in LOW_SHRINKS for b in HIGH_SHRINKS
        ]
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

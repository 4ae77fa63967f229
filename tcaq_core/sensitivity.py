"""What each layer's weight bits cost, and what the predicted noise owes to them."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tcaq_core.calibration import CalibrationSet
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.errors import CalibrationFailed
from tcaq_core.functional import fake_quantize, weight_params
from tcaq_core.layers import QuantLayer

# Shrink factors of each output channel's range: a coarse version of fit_ranges.
SHRINKS = tuple(1 - 0.1 * i for i in range(7))

Bits = Mapping[str, int]
"""Weight bits by layer."""
Tick = Callable[[int, int], None]


@dataclass(frozen=True)
class Costs:
    """What each layer's bits cost, and what they buy."""

    macs: Mapping[str, int]
    """Multiplications of one denoiser call for one sample."""
    errors: Mapping[str, Mapping[int, float]]
    """Squared error of the predicted noise, by candidate bits."""

    def mean_bits(self, bits: Bits) -> float:
        """Return the mean over all multiplications."""
        total = sum(self.macs[name] * b for name, b in bits.items())
        return total / sum(self.macs[name] for name in bits)


@torch.no_grad()
def multiplications(
    denoiser: QuantizedDenoiser, inputs: CalibrationSet
) -> dict[str, int]:
    """Return what each layer multiplies in one call for one sample.

    Raises:
        CalibrationFailed: a layer never ran.
    """
    found: dict[str, int] = {}
    layers = dict(denoiser.quant_layers())

    def hook_of(name: str) -> Callable[..., None]:
        per_output = math.prod(layers[name].shape[1:])
        return lambda _layer, _args, out: found.update({name: out.numel() * per_output})

    handles = [m.register_forward_hook(hook_of(n)) for n, m in layers.items()]
    try:
        denoiser(inputs.x_t[:1], inputs.t[:1])
    finally:
        for handle in handles:
            handle.remove()
    if idle := [name for name in layers if name not in found]:
        raise CalibrationFailed(
            f"{idle[0]} never ran during calibration.",
            hint="Add it to the recipe's skip list.",
        )
    return found


@torch.no_grad()
def sensitivities(
    denoiser: QuantizedDenoiser,
    inputs: CalibrationSet,
    candidates: Mapping[str, tuple[int, ...]],
    *,
    progress: Tick,
) -> dict[str, dict[int, float]]:
    """Return the error of the predicted noise by layer and candidate bits.

    A layer with a single candidate has nothing to choose: its error is 0.

    Raises:
        CalibrationFailed: a prediction has NaN or infinite values.
    """
    exact = _predict(denoiser, inputs)
    if not bool(torch.isfinite(exact).all()):
        raise CalibrationFailed(
            "The predicted noise has NaN or infinite values.",
            hint="Check the model in float32 and the calibration noise.",
        )
    found: dict[str, dict[int, float]] = {}
    layers = dict(denoiser.quant_layers())
    for done, (name, layer) in enumerate(layers.items()):
        progress(done, len(layers))
        found[name] = dict.fromkeys(candidates[name], 0.0)
        for b in candidates[name] if len(candidates[name]) > 1 else ():
            with rounded_weights({name: layer}, {name: b}):
                error = (_predict(denoiser, inputs) - exact).square().double().sum()
            found[name][b] = finite_error(float(error), name)
    return found


@contextmanager
def rounded_weights(layers: Mapping[str, QuantLayer], bits: Bits) -> Iterator[None]:
    """Run a block with these layers' weights rounded; restores the weights."""
    full = {name: layers[name].full_weight() for name in bits}
    try:
        for name, weight in full.items():
            layers[name].weight = rounded(weight, num_bits=bits[name])
        yield
    finally:
        for name, weight in full.items():
            layers[name].weight = weight


def rounded(weight: Float[Tensor, "D *I"], *, num_bits: int) -> Float[Tensor, "D *I"]:
    """Return a weight on grids per output channel, the best of a few ranges each."""
    rows = weight.flatten(1)
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    low, high = low.clamp(max=0), high.clamp(min=0)
    candidates = []
    for shrink in SHRINKS:
        params = weight_params(low * shrink, high * shrink, num_bits=num_bits)
        candidates.append(fake_quantize(rows, params, num_bits=num_bits))
    stacked = torch.stack(candidates)
    best = (stacked - rows).square().sum(dim=2).argmin(dim=0)
    chosen = stacked[best, torch.arange(len(rows), device=rows.device)]
    return chosen.view_as(weight)


def _predict(denoiser: QuantizedDenoiser, inputs: CalibrationSet) -> Tensor:
    return torch.cat([denoiser(batch.x_t, batch.t) for batch in inputs.batches()])


def finite_error(error: float, where: str) -> float:
    """Return an error as it is.

    Raises:
        CalibrationFailed: it is NaN or infinite.
    """
    if not math.isfinite(error):
        raise CalibrationFailed(
            f"Rounding weights gave NaN or infinite values: {where}.",
            hint="Check the model's weights, or leave the allocate pass out.",
        )
    return error

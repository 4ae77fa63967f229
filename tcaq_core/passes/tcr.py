"""Timestep-channel joint reparameterization (TCAQ-DM, "TCR", equations 3 to 5).

Each convolution's input channel j is divided by r_j, its weights multiplied by it;
r_j is the channel's range relative to the others, averaged over timestep groups with
the ranges themselves as weights.

    strength "search"   r_j^a with the a in 0, 1/4, 1/2, 3/4, 1 that disturbs the
                        layer's own quantized output least
    cap "dilation"      r_j <= min over o of range_o / max |W_oj|, so that no output
                        channel's weight range grows (DilateQuant, 2409.14307)

Invariant: the full-precision function of the denoiser does not change.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from diffusers.models.attention_processor import Attention
from jaxtyping import Float
from torch import Tensor

from tcaq_core.calibration import CalibrationSet, watching
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.errors import CalibrationFailed
from tcaq_core.functional import balance
from tcaq_core.layer_error import channel_peaks, output_error, window
from tcaq_core.layers import QuantConv2d, QuantLayer
from tcaq_core.recipe import TCR
from tcaq_core.timesteps import TimestepGroups

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
# Inputs that the search looks at, spread over the data and hence over timesteps.
SEARCH_INPUTS = 16


@dataclass
class Shown:
    """What calibration shows of one layer's input."""

    peaks: dict[int, Float[Tensor, "C"]] = field(default_factory=dict)
    """Largest magnitude of each channel, by timestep group."""
    samples: list[Tensor] = field(default_factory=list)
    """A few inputs, where the strength is searched."""

    def add_peaks(self, group: list[int], peak: Float[Tensor, "N C"]) -> None:
        """Add one batch, whose samples belong to these groups."""
        for g, sample in zip(group, peak, strict=True):
            known = self.peaks.get(g)
            self.peaks[g] = sample if known is None else torch.maximum(known, sample)

    @property
    def channel_range(self) -> Float[Tensor, "T C"]:
        """The peaks of the groups that the data visits, in order."""
        return torch.stack([self.peaks[g] for g in sorted(self.peaks)])


def apply(
    denoiser: QuantizedDenoiser, data: CalibrationSet, config: TCR
) -> dict[str, float]:
    """Move each channel's excess range from the activation into the weight.

    Returns the strength that each layer got, by name.

    Raises:
        CalibrationFailed: a layer never ran, or its input has NaN or infinite values.
    """
    layers = targets(denoiser, config)
    chosen: dict[str, float] = {}
    for name, shown in watch(denoiser, data, layers, config).items():
        layer = layers[name]
        strength = config.strength
        if strength == "search":
            strength = search_strength(layer, shown, config)
        layer.rescale_input(factors_of(layer, shown, config, strength=strength))
        chosen[name] = strength
    return chosen


def targets(denoiser: QuantizedDenoiser, config: TCR) -> dict[str, QuantLayer]:
    """Return the layers whose input is rescaled, by name.

    The linear layers of ``layers = "all"`` are those of attention. Those of the time
    embedding read a function of t alone, not channels that change their balance.
    """
    attentions = tuple(
        f"{name}."
        for name, module in denoiser.unet.named_modules()
        if isinstance(module, Attention)
    )
    return {
        name: layer
        for name, layer in denoiser.quant_layers()
        if isinstance(layer, QuantConv2d)
        or (config.layers == "all" and name.startswith(attentions))
    }


def factors(
    channel_range: Float[Tensor, "T C"], config: TCR, *, strength: float
) -> Float[Tensor, "C"]:
    """Return r from each channel's largest magnitude per timestep group."""
    r = balance(channel_range, target=config.target).clamp(min=1e-4).pow(strength)
    if config.truncation is not None:
        r = r.clamp(1 / config.truncation, config.truncation)
    return r


def factors_of(
    layer: QuantLayer, shown: Shown, config: TCR, *, strength: float
) -> Float[Tensor, "C"]:
    """Return a layer's r, below the cap that the settings ask for."""
    r = factors(shown.channel_range, config, strength=strength)
    if config.cap == "dilation":
        pieces = layer.full_weight().split(layer.parts, dim=1)
        r = torch.minimum(r, torch.cat([dilation_cap(piece) for piece in pieces]))
    return r


def dilation_cap(weight: Float[Tensor, "D C *K"]) -> Float[Tensor, "C"]:
    """Return how far each input channel's weights may grow: at least by 1.

    Both ends count by themselves, since weight grids are asymmetric (DilateQuant):
    min over o of min(max W_o / max W_oj, min W_o / min W_oj), ends of 0 left out.
    """
    by_channel = weight.reshape(*weight.shape[:2], -1)  # (D, C, K)
    high, low = by_channel.amax(dim=2), by_channel.amin(dim=2)
    unbounded = torch.full_like(high, torch.inf)
    above = torch.where(high > 0, high.amax(dim=1, keepdim=True) / high, unbounded)
    below = torch.where(low < 0, low.amin(dim=1, keepdim=True) / low, unbounded)
    return torch.minimum(above, below).amin(dim=0)


def search_strength(layer: QuantLayer, shown: Shown, config: TCR) -> float:
    """Return the strength with the smallest error of the layer's quantized output."""
    errors = {
        strength: output_error(
            layer,
            shown.samples,
            factors_of(layer, shown, config, strength=strength),
        )
        for strength in STRENGTHS
    }
    return min(errors, key=lambda strength: errors[strength])


@torch.no_grad()
def watch(
    denoiser: QuantizedDenoiser,
    data: CalibrationSet,
    layers: Mapping[str, QuantLayer],
    config: TCR,
) -> dict[str, Shown]:
    """Return max |x_j| over batch and space for every input channel of every layer.

    Raises:
        CalibrationFailed: a layer never ran, or its input has NaN or infinite values.
    """
    groups = TimestepGroups(denoiser.num_timesteps, config.num_groups)
    shown = {name: Shown() for name in layers}
    num = SEARCH_INPUTS if config.strength == "search" else 0
    sampled = torch.linspace(0, len(data) - 1, num).round().long().unique()
    start = 0

    def see(name: str, x: Tensor) -> None:
        group = groups.of(denoiser.cursor.t).tolist()
        shown[name].add_peaks(group, channel_peaks(layers[name], x))
        here = sampled[(sampled >= start) & (sampled < start + len(x))] - start
        if len(here):
            sample = window(layers[name], x[here.to(x.device)])
            shown[name].samples.append(sample.clone())

    with denoiser.full_precision(), watching(layers, see):
        for batch in data.batches():
            denoiser(batch.x_t, batch.t)
            start += len(batch)
    for name, of_layer in shown.items():
        _check(name, of_layer)
    return shown


def _check(name: str, shown: Shown) -> None:
    if not shown.peaks:
        raise CalibrationFailed(
            f"{name} never ran during calibration.",
            hint="Add it to the recipe's skip list.",
        )
    if not bool(torch.isfinite(shown.channel_range).all()):
        raise CalibrationFailed(
            f"The input of {name} has NaN or infinite values.",
            hint="Check the model in float32 and the calibration noise.",
        )

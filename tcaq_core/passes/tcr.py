"""Timestep-channel joint reparameterization (TCAQ-DM, "TCR", equations 3 to 5).

Each convolution's input channel j is divided by r_j, its weights multiplied by it;
r_j is the channel's range relative to the others, averaged over timestep groups with
the ranges themselves as weights.

Invariant: the full-precision function of the denoiser does not change.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tcaq_core.calibration import CalibrationSet, watching
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.errors import CalibrationFailed
from tcaq_core.functional import balance
from tcaq_core.layers import QuantConv2d
from tcaq_core.recipe import TCR
from tcaq_core.timesteps import TimestepGroups


def apply(denoiser: QuantizedDenoiser, data: CalibrationSet, config: TCR) -> None:
    """Move each channel's excess range from the activation into the weight."""
    ranges = channel_ranges(denoiser, data, num_groups=config.num_groups)
    layers = dict(denoiser.quant_layers())
    for name, channel_range in ranges.items():
        layers[name].rescale_input(factors(channel_range, config))


def factors(channel_range: Float[Tensor, "T C"], config: TCR) -> Float[Tensor, "C"]:
    """Return r from each channel's largest magnitude per timestep group."""
    r = balance(channel_range, target=config.target).clamp(min=1e-4)
    if config.strength == "search":
        raise NotImplementedError
    r = r.pow(config.strength)
    if config.truncation is not None:
        r = r.clamp(1 / config.truncation, config.truncation)
    return r


@torch.no_grad()
def channel_ranges(
    denoiser: QuantizedDenoiser, data: CalibrationSet, *, num_groups: int
) -> dict[str, Float[Tensor, "T C"]]:
    """Return max |x_j| over batch and space for every convolution input channel.

    Rows are the timestep groups that the data visits, in order.

    Raises:
        CalibrationFailed: a convolution never ran.
    """
    groups = TimestepGroups(denoiser.num_timesteps, num_groups)
    convs = {n: m for n, m in denoiser.quant_layers() if isinstance(m, QuantConv2d)}
    peaks: dict[str, dict[int, Tensor]] = {name: {} for name in convs}

    def see(name: str, x: Tensor) -> None:
        peak = x.abs().amax(dim=(2, 3))  # (N, C)
        for g, sample in zip(groups.of(denoiser.cursor.t).tolist(), peak, strict=True):
            known = peaks[name].get(g)
            peaks[name][g] = sample if known is None else torch.maximum(known, sample)

    with denoiser.full_precision(), watching(convs, see):
        for batch in data.batches():
            denoiser(batch.x_t, batch.t)
    if idle := [name for name, by_group in peaks.items() if not by_group]:
        raise CalibrationFailed(
            f"{idle[0]} never ran during calibration.",
            hint="Add it to the recipe's skip list.",
        )
    return {
        name: torch.stack([by_group[g] for g in sorted(by_group)])
        for name, by_group in peaks.items()
    }

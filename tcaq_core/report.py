"""Layers x timesteps: how far each layer's output is from full precision, pass by pass.

For every quantized layer and for the predicted noise: the signal-to-noise ratio per
timestep group, with the whole network quantized as far as it is (`signal_noise`).
"""

from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any, Final

from pydantic import BaseModel

from tcaq_core.calibration import CalibrationSet
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.signal_noise import DIGITS, Decibel, Energy, measure
from tcaq_core.state import state_of
from tcaq_core.timesteps import TimestepGroups

NUM_GROUPS: Final = 10


class LayerBytes(BaseModel, frozen=True, extra="forbid"):
    """What one layer takes in a checkpoint."""

    codes: int
    """Packed weight codes."""
    scales: int
    """Grids of weight and input, and TCR's factors."""
    rest: int
    """Bias and whatever else stays as it was."""


class PassRows(BaseModel, frozen=True, extra="forbid"):
    """Signal-to-noise ratios after one pass, in dB; one a timestep group."""

    kind: str
    output: tuple[Decibel, ...]
    """Of the predicted noise."""
    output_gain: Decibel
    """What this pass added to the mean over the groups; None for the first."""
    layers: dict[str, tuple[Decibel, ...]]
    gains: dict[str, Decibel]
    """As `output_gain`, by layer."""


class LayerReport(BaseModel, frozen=True, extra="forbid"):
    """What every measured pass did to every layer, and what each layer costs."""

    groups: tuple[tuple[int, int], ...]
    """First and last training timestep of each group that calibration visits."""
    passes: tuple[PassRows, ...]
    """From the first pass that quantizes on."""
    bytes: dict[str, LayerBytes]
    other_bytes: int
    """Everything in the weight file that belongs to no quantized layer."""


def after_pass(
    kind: str,
    denoiser: QuantizedDenoiser,
    data: CalibrationSet,
    known: Mapping[str, Any] | None,
    *,
    tick: Callable[[], None],
) -> dict[str, Any] | None:
    """Return the report, as JSON, that also says what pass `kind` has done.

    `known` is the report before it, or None. While nothing is quantized there is
    nothing to report. `tick` is called before each batch; what it raises comes out.
    """
    if not any(layer.is_active for _, layer in denoiser.quant_layers()):
        return None if known is None else dict(known)
    groups = TimestepGroups(denoiser.num_timesteps, NUM_GROUPS)
    visited = sorted(set(groups.of(data.t).tolist()))
    before = () if known is None else LayerReport.model_validate(known).passes
    rows = _rows(kind, measure(denoiser, data, groups, tick=tick), visited, before)
    sizes, other = layer_bytes(denoiser)
    report = LayerReport(
        groups=tuple(_timesteps(groups, g) for g in visited),
        passes=(*before, rows),
        bytes=sizes,
        other_bytes=other,
    )
    return report.model_dump(mode="json")


def layer_bytes(denoiser: QuantizedDenoiser) -> tuple[dict[str, LayerBytes], int]:
    """Return what each layer takes in a checkpoint, and all the rest together."""
    state = state_of(denoiser)
    sizes = {name: tensor.nbytes for name, tensor in state.items()}
    found: dict[str, LayerBytes] = {}
    for name, _ in denoiser.quant_layers():
        own = {key: n for key, n in sizes.items() if key.startswith(f"{name}.")}
        codes = own.pop(f"{name}.weight_codes", 0)
        rest = own.pop(f"{name}.bias", 0)
        found[name] = LayerBytes(codes=codes, scales=sum(own.values()), rest=rest)
    listed = sum(item.codes + item.scales + item.rest for item in found.values())
    return found, sum(sizes.values()) - listed


def _rows(
    kind: str,
    energies: Mapping[str, Energy],
    groups: list[int],
    before: tuple[PassRows, ...],
) -> PassRows:
    layers = {name: energy.decibels(groups) for name, energy in energies.items()}
    output = layers.pop("")
    last = before[-1] if before else None
    return PassRows(
        kind=kind,
        output=output,
        output_gain=_gain(output, last.output if last else ()),
        layers=layers,
        gains={
            name: _gain(row, last.layers.get(name, ()) if last else ())
            for name, row in layers.items()
        },
    )


def _gain(now: tuple[Decibel, ...], before: tuple[Decibel, ...]) -> Decibel:
    # Only groups that both have: an error that vanished cannot be averaged.
    pairs = zip(now, before, strict=False)
    gains = [a - b for a, b in pairs if a is not None and b is not None]
    return round(fmean(gains), DIGITS) if gains else None


def _timesteps(groups: TimestepGroups, group: int) -> tuple[int, int]:
    def first(g: int) -> int:
        return -(-g * groups.num_timesteps // groups.num_groups)

    return first(group), first(group + 1) - 1

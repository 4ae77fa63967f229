"""What a quantized denoiser is made of: described for a manifest, rebuilt from one."""

from typing import Literal

from tcaq_core.correction import correction_of
from tcaq_core.denoiser import QuantizedDenoiser, modulate_input
from tcaq_core.difference import DifferenceQuantizer
from tcaq_core.layers import QuantLayer
from tcaq_core.manifest import AttentionEntry, LayerEntry, Structure
from tcaq_core.quantizers import SoftmaxQuantizer
from tcaq_core.recipe import LayerBits, SoftmaxGrid
from tcaq_core.temporal import cached_steps, open_cache
from tcaq_core.timesteps import SamplerSteps

NAMED_STEPS: dict[float, SoftmaxGrid] = {0.0: "uniform", 1.0: "log2", 0.5: "log_sqrt2"}


def structure_of(denoiser: QuantizedDenoiser) -> Structure:
    """Return everything about a denoiser that its tensors do not say."""
    steps = denoiser.cursor.steps
    cached = cached_steps(denoiser)
    return Structure(
        layers={
            name: LayerEntry(
                shape=layer.shape,
                weight_bits=layer.bits.weight_bits,
                activation_bits=layer.bits.activation_bits,
                parts=layer.parts,
                is_rescaled=layer.is_rescaled,
                modulation=_modulation_of(layer),
                is_settled=layer.is_settled,
            )
            for name, layer in denoiser.quant_layers()
        },
        attentions={
            name: AttentionEntry(grids=grid_names(processor.softmax_quantizer))
            for name, _, processor in denoiser.attentions()
        },
        steps=() if steps is None else steps.timesteps,
        is_corrected=correction_of(denoiser.unet) is not None,
        recommended_steps=denoiser.recommended_steps,
        cached_steps=() if cached is None else cached.timesteps,
    )


def rebuild(denoiser: QuantizedDenoiser, structure: Structure) -> None:
    """Give a denoiser that was just built from its recipe the described structure.

    Raises:
        ValueError: the description is of another denoiser.
    """
    if structure.cached_steps:
        open_cache(denoiser, SamplerSteps(structure.cached_steps))
    layers = dict(denoiser.quant_layers())
    if set(layers) != set(structure.layers):
        odd = sorted(set(layers) ^ set(structure.layers))
        raise ValueError(f"other layers are described: {', '.join(odd[:3])}")
    for name, entry in structure.layers.items():
        layer = layers[name]
        if layer.shape != entry.shape:
            raise ValueError(f"{name} is {layer.shape}, described as {entry.shape}")
        bits = LayerBits.model_validate(
            {
                "weight_bits": entry.weight_bits,
                "activation_bits": entry.activation_bits,
            }
        )
        if bits != layer.bits:
            layer.change_bits(bits)
        if entry.parts != layer.parts:
            layer.split_input(entry.parts)
        if entry.modulation is not None:
            modulate_input(layer, entry.modulation)
        layer.is_settled = entry.is_settled
    denoiser.recommended_steps = structure.recommended_steps
    if structure.steps:
        denoiser.cursor.steps = SamplerSteps(structure.steps)


def _modulation_of(layer: QuantLayer) -> Literal["step", "dynamic"] | None:
    quantizer = layer.input_quantizer
    if not isinstance(quantizer, DifferenceQuantizer):
        return None
    return "dynamic" if quantizer.grid is None else "step"


def grid_names(quantizer: SoftmaxQuantizer) -> tuple[SoftmaxGrid, ...]:
    """Return the kind of grid of each timestep group."""
    return tuple(NAMED_STEPS.get(s, "adaptive") for s in quantizer.log_step.tolist())

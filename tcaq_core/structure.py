"""What a quantized denoiser is made of: described for a manifest, rebuilt from one."""

from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.manifest import AttentionEntry, LayerEntry, Structure
from tcaq_core.quantizers import SoftmaxQuantizer
from tcaq_core.recipe import LayerBits, SoftmaxGrid
from tcaq_core.timesteps import SamplerSteps

NAMED_STEPS: dict[float, SoftmaxGrid] = {0.0: "uniform", 1.0: "log2", 0.5: "log_sqrt2"}


def structure_of(denoiser: QuantizedDenoiser) -> Structure:
    """Return everything about a denoiser that its tensors do not say."""
    steps = denoiser.cursor.steps
    return Structure(
        layers={
            name: LayerEntry(
                shape=layer.shape,
                weight_bits=layer.bits.weight_bits,
                activation_bits=layer.bits.activation_bits,
                parts=layer.parts,
                is_rescaled=layer.is_rescaled,
            )
            for name, layer in denoiser.quant_layers()
        },
        attentions={
            name: AttentionEntry(grids=grid_names(processor.softmax_quantizer))
            for name, _, processor in denoiser.attentions()
        },
        steps=() if steps is None else steps.timesteps,
    )


def rebuild(denoiser: QuantizedDenoiser, structure: Structure) -> None:
    """Give a denoiser that was just built from its recipe the described structure.

    Raises:
        ValueError: the description is of another denoiser.
    """
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
    if structure.steps:
        denoiser.cursor.steps = SamplerSteps(structure.steps)


def grid_names(quantizer: SoftmaxQuantizer) -> tuple[SoftmaxGrid, ...]:
    """Return the kind of grid of each timestep group."""
    return tuple(NAMED_STEPS.get(s, "adaptive") for s in quantizer.log_step.tolist())

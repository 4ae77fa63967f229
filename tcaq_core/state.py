"""A quantized denoiser as named tensors, and back.

``<layer>.weight_codes``       uint8, packed bit stream
``<layer>.weight_scale``       float32 (D,)
``<layer>.weight_zero_point``  uint8 (D,)
``<layer>.input_rescale``      float32 (C,), where TCR ran
``<quantizer>.scale``, ``.zero_point``   float32 (), uint8 ()
``<softmax quantizer>.scale``  float32 (G,); the kinds of grid are in the manifest
everything else               by its name in the original, in the narrowest of
                               float16, bfloat16, float32 that holds it exactly
"""

import torch
from torch import Tensor

from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.layers import QuantLayer
from tcaq_core.manifest import Manifest
from tcaq_core.runtime.packing import pack, unpack


def state_of(denoiser: QuantizedDenoiser) -> dict[str, Tensor]:
    """Return everything that a checkpoint stores, on the CPU."""
    state: dict[str, Tensor] = {}
    for name, layer in denoiser.quant_layers():
        bits = layer.bits.weight_bits
        state[f"{name}.weight_codes"] = pack(layer.codes(), num_bits=bits)
        state[f"{name}.weight_scale"] = layer.weight_scale
        state[f"{name}.weight_zero_point"] = layer.weight_zero_point.to(torch.uint8)
        if layer.is_rescaled:
            state[f"{name}.input_rescale"] = layer.input_rescale
    for name, quantizer in denoiser.activation_quantizers().items():
        state[f"{name}.scale"] = quantizer.scale
        state[f"{name}.zero_point"] = quantizer.zero_point.to(torch.uint8)
    for name, _, processor in denoiser.attentions():
        state[f"{name}.softmax.scale"] = processor.softmax_quantizer.scale
    for name, parameter in denoiser.unet.named_parameters():
        state[name] = narrowest(parameter.detach())
    return {name: tensor.cpu().contiguous() for name, tensor in state.items()}


def load_state(
    denoiser: QuantizedDenoiser, state: dict[str, Tensor], manifest: Manifest
) -> None:
    """Put stored tensors into a freshly built denoiser and activate it.

    Raises:
        KeyError: a tensor is missing.
        ValueError: a tensor is left over, or a code stream has the wrong length.
        RuntimeError: a tensor has another shape than the module expects.
    """
    state = dict(state)
    for name, layer in denoiser.quant_layers():
        _load_layer(name, layer, state, manifest)
    for name, quantizer in denoiser.activation_quantizers().items():
        quantizer.load(state.pop(f"{name}.scale"), state.pop(f"{name}.zero_point"))
    for name, _, processor in denoiser.attentions():
        scale = state.pop(f"{name}.softmax.scale")
        flags = [grid == "log2" for grid in manifest.attentions[name].grids]
        if len(flags) != scale.numel():
            raise ValueError(f"{name} has {scale.numel()} scales, {len(flags)} grids")
        is_log2 = torch.tensor(flags, device=scale.device)
        processor.softmax_quantizer.load(scale, is_log2)
    for name, parameter in denoiser.unet.named_parameters():
        stored = state.pop(name)
        if stored.shape != parameter.shape:
            raise ValueError(f"{name} has shape {tuple(stored.shape)}")
        parameter.data = stored.to(parameter.dtype)
    if state:
        raise ValueError(f"unknown tensors: {', '.join(sorted(state)[:3])}")


def _load_layer(
    name: str, layer: QuantLayer, state: dict[str, Tensor], manifest: Manifest
) -> None:
    entry = manifest.layers[name]
    shape = tuple(layer.full_weight().shape)
    if entry.shape != shape or entry.weight_bits != layer.bits.weight_bits:
        raise ValueError(f"{name} is described as {entry.shape}, expected {shape}")
    codes = unpack(
        state.pop(f"{name}.weight_codes"), shape=shape, num_bits=entry.weight_bits
    )
    layer.load(
        codes.to(layer.input_rescale.device),
        scale=state.pop(f"{name}.weight_scale"),
        zero_point=state.pop(f"{name}.weight_zero_point").float(),
        input_rescale=state.pop(f"{name}.input_rescale") if entry.is_rescaled else None,
    )


def narrowest(x: Tensor) -> Tensor:
    """Return x in the narrowest float type that holds every value exactly."""
    for dtype in (torch.float16, torch.bfloat16):
        narrow = x.to(dtype)
        if torch.equal(narrow.to(x.dtype), x):
            return narrow
    return x

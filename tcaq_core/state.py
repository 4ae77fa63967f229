"""A quantized denoiser as named tensors, and back.

``<layer>.weight_codes``       uint8, packed bit stream
``<layer>.weight_scale``       float32 (D, P): output channels, parts
``<layer>.weight_zero_point``  uint8 (D, P)
``<layer>.input_rescale``      float32 (C,), where TCR ran
``<quantizer>.scale``, ``.zero_point``   float32, uint8 (R, P): rows, parts
``<quantizer>.row_of_step``    uint8 (T,), where steps share rows
``<attention>.softmax.scale``, ``.log_step``   float32 (G,): timestep groups
everything else               by its name in the original, in the narrowest of
                               float16, bfloat16, float32 that holds it exactly

A snapshot taken between two passes has the same form: what is not fitted yet is
simply not there.
"""

import torch
from torch import Tensor

from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.layers import QuantLayer
from tcaq_core.manifest import LayerEntry, Structure
from tcaq_core.quantizers import UniformQuantizer
from tcaq_core.runtime.packing import pack, unpack
from tcaq_core.structure import rebuild


def state_of(denoiser: QuantizedDenoiser) -> dict[str, Tensor]:
    """Return everything that a checkpoint stores, on the CPU."""
    state: dict[str, Tensor] = {}
    for name, layer in denoiser.quant_layers():
        if layer.weight_codes is not None:
            bits = layer.bits.weight_bits
            state[f"{name}.weight_codes"] = pack(layer.codes(), num_bits=bits)
            state[f"{name}.weight_scale"] = layer.weight_scale
            state[f"{name}.weight_zero_point"] = layer.weight_zero_point.to(torch.uint8)
        if layer.is_rescaled:
            state[f"{name}.input_rescale"] = layer.input_rescale
    for name, quantizer in denoiser.activation_quantizers().items():
        if quantizer.is_fitted:
            state |= _grids_of(name, quantizer)
    for name, _, processor in denoiser.attentions():
        if processor.softmax_quantizer.is_fitted:
            state[f"{name}.softmax.scale"] = processor.softmax_quantizer.scale
            state[f"{name}.softmax.log_step"] = processor.softmax_quantizer.log_step
    for name, parameter in denoiser.unet.named_parameters():
        state[name] = narrowest(parameter.detach())
    return {name: tensor.cpu().contiguous() for name, tensor in state.items()}


def load_state(
    denoiser: QuantizedDenoiser,
    state: dict[str, Tensor],
    structure: Structure,
    *,
    snapshot: bool = False,
) -> None:
    """Put stored tensors into a denoiser just built from its recipe; activate it.

    A checkpoint replaces the full-precision weights; a `snapshot` keeps them, with
    TCR's factors multiplied in, and may lack what was not fitted when it was taken.

    Raises:
        KeyError: a tensor is missing.
        ValueError: a tensor is left over, or a code stream has the wrong length.
        RuntimeError: a tensor has another shape than the module expects.
    """
    state = dict(state)
    rebuild(denoiser, structure)
    for name, layer in denoiser.quant_layers():
        entry = structure.layers[name]
        factors = state.pop(f"{name}.input_rescale") if entry.is_rescaled else None
        if not snapshot:
            layer.drop_full_weight(factors)
        elif factors is not None:
            layer.rescale_input(factors)
        if not (snapshot and f"{name}.weight_codes" not in state):
            _load_codes(name, layer, state, entry)
    for name, quantizer in denoiser.activation_quantizers().items():
        if not (snapshot and f"{name}.scale" not in state):
            quantizer.load(
                state.pop(f"{name}.scale"),
                state.pop(f"{name}.zero_point"),
                row_of_step=state.pop(f"{name}.row_of_step", None),
            )
    for name, _, processor in denoiser.attentions():
        if not (snapshot and f"{name}.softmax.scale" not in state):
            processor.softmax_quantizer.load(
                state.pop(f"{name}.softmax.scale"),
                state.pop(f"{name}.softmax.log_step"),
            )
    for name, parameter in denoiser.unet.named_parameters():
        stored = state.pop(name)
        if stored.shape != parameter.shape:
            raise ValueError(f"{name} has shape {tuple(stored.shape)}")
        parameter.data = stored.to(parameter)
    if state:
        raise ValueError(f"unknown tensors: {', '.join(sorted(state)[:3])}")


def _grids_of(name: str, quantizer: UniformQuantizer) -> dict[str, Tensor]:
    grids = {
        f"{name}.scale": quantizer.scale,
        f"{name}.zero_point": quantizer.zero_point.to(torch.uint8),
    }
    if quantizer.row_of_step is not None:
        grids[f"{name}.row_of_step"] = quantizer.row_of_step.to(torch.uint8)
    return grids


def _load_codes(
    name: str, layer: QuantLayer, state: dict[str, Tensor], entry: LayerEntry
) -> None:
    codes = unpack(
        state.pop(f"{name}.weight_codes"),
        shape=entry.shape,
        num_bits=entry.weight_bits,
    )
    device = layer.input_rescale.device
    layer.load(
        codes.to(device),
        scale=state.pop(f"{name}.weight_scale").to(device),
        zero_point=state.pop(f"{name}.weight_zero_point").to(device, torch.float32),
    )


def narrowest(x: Tensor) -> Tensor:
    """Return x in the narrowest float type that holds every value exactly."""
    for dtype in (torch.float16, torch.bfloat16):
        narrow = x.to(dtype)
        if torch.equal(narrow.to(x.dtype), x):
            return narrow
    return x

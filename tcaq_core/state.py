"""A quantized denoiser as named tensors, and back.

``<layer>.weight_codes``       uint8, packed bit stream
``<layer>.weight_scale``       float32 (D, P): output channels, parts
``<layer>.weight_zero_point``  uint8 (D, P)
``<layer>.input_rescale``      float32 (C,), where TCR ran
``<quantizer>.scale``, ``.zero_point``   float32, uint8 (R, P): rows, parts
``<quantizer>.row_of_step``    uint8 (T,), where steps share rows
``<attention>.softmax.scale``, ``.log_step``   float32 (G,): timestep groups
``correction.gain``, ``.bias``, ``.residual_std``   float32 (S, C), (S, C), (S,)
``<projection>.features``     float16 (S, D): cached temporal features, by timestep
everything else               by its name in the original, in the narrowest of
                               float16, bfloat16, float32 that holds it exactly

A snapshot taken between two passes has the same form: what is not fitted yet is
simply not there.
"""

import hashlib

import torch
from torch import Tensor

from tcaq_core.correction import OutputCorrection, correction_of
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.layers import QuantLayer
from tcaq_core.manifest import Description, LayerEntry, Structure
from tcaq_core.quantizers import UniformQuantizer
from tcaq_core.runtime.packing import pack, unpack
from tcaq_core.structure import rebuild
from tcaq_core.temporal import cached_features


def state_of(
    denoiser: QuantizedDenoiser, *, snapshot: bool = False
) -> dict[str, Tensor]:
    """Return everything that a checkpoint stores, on the CPU.

    A `snapshot` also holds what later passes start from: the continuous weight behind
    the codes, and full-precision biases beside the quantized layers' own.
    """
    state: dict[str, Tensor] = {}
    for name, layer in denoiser.quant_layers():
        state |= _tensors_of(name, layer, snapshot=snapshot)
    state |= _all_grids_of(denoiser)
    state |= _correction_of(denoiser)
    for name, feature in cached_features(denoiser).items():
        state[f"{name}.features"] = feature.values()
    state |= _parameters_of(denoiser, snapshot=snapshot)
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
    _load_layers(denoiser, state, structure, snapshot=snapshot)
    _load_grids(denoiser, state, snapshot=snapshot)
    if structure.is_corrected:
        _load_correction(denoiser, state)
    for name, feature in cached_features(denoiser).items():
        feature.load(state.pop(f"{name}.features").to(denoiser.unet.device))
    _load_parameters(denoiser, state)
    if state:
        raise ValueError(f"unknown tensors: {', '.join(sorted(state)[:3])}")


def _correction_of(denoiser: QuantizedDenoiser) -> dict[str, Tensor]:
    correction = correction_of(denoiser.unet)
    tables = {} if correction is None else dict(correction.named_buffers())
    return {f"correction.{name}": table for name, table in tables.items()}


def _load_correction(denoiser: QuantizedDenoiser, state: dict[str, Tensor]) -> None:
    names = ("gain", "bias", "residual_std")
    tables = {name: state.pop(f"correction.{name}") for name in names}
    denoiser.correct_with(OutputCorrection(**tables, cursor=denoiser.cursor))


def _tensors_of(name: str, layer: QuantLayer, *, snapshot: bool) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    if layer.weight_codes is not None:
        bits = layer.bits.weight_bits
        state[f"{name}.weight_codes"] = pack(layer.codes(), num_bits=bits)
        state[f"{name}.weight_scale"] = layer.weight_scale
        state[f"{name}.weight_zero_point"] = layer.weight_zero_point.to(torch.uint8)
    if layer.is_rescaled:
        state[f"{name}.input_rescale"] = layer.input_rescale
    if snapshot:
        state |= _starting_points_of(name, layer)
    return state


def _all_grids_of(denoiser: QuantizedDenoiser) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, quantizer in denoiser.activation_quantizers().items():
        if quantizer.is_fitted:
            state |= _grids_of(name, quantizer)
    for name, _, processor in denoiser.attentions():
        if processor.softmax_quantizer.is_fitted:
            state[f"{name}.softmax.scale"] = processor.softmax_quantizer.scale
            state[f"{name}.softmax.log_step"] = processor.softmax_quantizer.log_step
    return state


def _parameters_of(denoiser: QuantizedDenoiser, *, snapshot: bool) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, parameter in denoiser.unet.named_parameters():
        state[name] = narrowest(parameter.detach())
    if not snapshot:
        for name, layer in denoiser.quant_layers():
            if layer.bias_hat is not None:
                state[f"{name}.bias"] = narrowest(layer.bias_hat)
    return state


def _grids_of(name: str, quantizer: UniformQuantizer) -> dict[str, Tensor]:
    grids = {
        f"{name}.scale": quantizer.scale,
        f"{name}.zero_point": quantizer.zero_point.to(torch.uint8),
    }
    if quantizer.row_of_step is not None:
        grids[f"{name}.row_of_step"] = quantizer.row_of_step.to(torch.uint8)
    return grids


def _starting_points_of(name: str, layer: QuantLayer) -> dict[str, Tensor]:
    found = {"weight_target": layer.weight_target, "bias_hat": layer.bias_hat}
    return {f"{name}.{k}": v for k, v in found.items() if v is not None}


def _load_layers(
    denoiser: QuantizedDenoiser,
    state: dict[str, Tensor],
    structure: Structure,
    *,
    snapshot: bool,
) -> None:
    for name, layer in denoiser.quant_layers():
        entry = structure.layers[name]
        factors = state.pop(f"{name}.input_rescale") if entry.is_rescaled else None
        if not snapshot:
            layer.drop_full_weight(factors)
        else:
            if factors is not None:
                layer.rescale_input(factors)
            layer.weight_target = state.pop(f"{name}.weight_target", None)
            layer.bias_hat = state.pop(f"{name}.bias_hat", None)
        if not (snapshot and f"{name}.weight_codes" not in state):
            _load_codes(name, layer, state, entry)


def _load_grids(
    denoiser: QuantizedDenoiser, state: dict[str, Tensor], *, snapshot: bool
) -> None:
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


def _load_parameters(denoiser: QuantizedDenoiser, state: dict[str, Tensor]) -> None:
    for name, parameter in denoiser.unet.named_parameters():
        stored = state.pop(name)
        if stored.shape != parameter.shape:
            raise ValueError(f"{name} has shape {tuple(stored.shape)}")
        # A copy: otherwise the whole file stays mapped into memory for its sake.
        parameter.data = stored.to(parameter, copy=True)


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
        scale=state.pop(f"{name}.weight_scale").to(device, copy=True),
        zero_point=state.pop(f"{name}.weight_zero_point").to(device, torch.float32),
    )


def digest_of(state: dict[str, Tensor], description: Description) -> str:
    """Return the hex SHA-256 of stored tensors and of what they mean.

    Names, types, shapes and bytes count, by name; how a file arranges them does not.
    """
    digest = hashlib.sha256(description.canonical().encode())
    for name, tensor in sorted(state.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def narrowest(x: Tensor) -> Tensor:
    """Return x in the narrowest float type that holds every value exactly."""
    for dtype in (torch.float16, torch.bfloat16):
        narrow = x.to(dtype)
        if torch.equal(narrow.to(x.dtype), x):
            return narrow
    return x

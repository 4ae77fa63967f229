"""How large a checkpoint's weight file will be: its tensors listed, its header built.

The list follows `tcaq_core.state`; a test compares it with real files.
"""

import json
import math
from typing import Final

from tcaq_core.network import LayerShape, Network
from tcaq_core.recipe import (
    DAQ,
    PAR,
    TCR,
    Allocate,
    Correct,
    FitRanges,
    LayerBits,
    Modulate,
    Recipe,
    SecondOrder,
    Temporal,
)

Tensors = dict[str, tuple[str, tuple[int, ...]]]
"""Type and shape by name, as a safetensors header has them."""

BYTES: Final = {"F32": 4, "F16": 2, "BF16": 2, "U8": 1}
PROJECTION: Final = "time_emb_proj"


def stored_bytes(network: Network, recipe: Recipe) -> int:
    """Return the size of the packed weight file.

    Exact, but for what only the values decide: a float32 tensor that float16 holds
    exactly is stored as float16, and `allocate` gives layers other bits than the
    average that is assumed here.
    """
    tensors = stored_tensors(network, recipe)
    return _header_bytes(tensors) + sum(_bytes(*item) for item in tensors.values())


def stored_tensors(network: Network, recipe: Recipe) -> Tensors:
    """Return the tensors of the packed weight file."""
    tensors: Tensors = {}
    for name, layer in network.layers.items():
        bits = recipe.bits_of(name)
        if bits is None:
            tensors[f"{name}.weight"] = (_kept(network, f"{name}.weight"), layer.shape)
        else:
            tensors |= _layer(layer, bits, recipe)
    for name in network.attentions:
        if (bits := recipe.bits_of(name)) is not None:
            tensors |= _attention(name, bits, recipe)
    for name, shape in network.others.items():
        tensors[name] = (_kept(network, name), shape)
    for item in recipe.method.passes:
        match item:
            case SecondOrder() | PAR(learn_biases=True):
                _widen_biases(tensors)
            case Temporal() if item.maintenance == "cache":
                _cache_features(tensors, network, recipe.calibration.num_steps)
            case Correct():
                tensors |= _correction(network, recipe.calibration.num_steps)
            case _:
                pass
    return tensors


def _kept(network: Network, name: str) -> str:
    # Loaded as float32, stored in the narrowest type that holds every value.
    dtype = network.dtypes[name]
    return dtype if dtype in {"F16", "BF16"} else "F32"


def _widen_biases(tensors: Tensors) -> None:
    for name, (_, shape) in tensors.items():
        layer = name.removesuffix(".bias")
        if layer != name and f"{layer}.weight_codes" in tensors:
            tensors[name] = ("F32", shape)


def _cache_features(tensors: Tensors, network: Network, steps: int) -> None:
    for name in [name for name in tensors if _is_temporal(name)]:
        del tensors[name]
    for name, layer in network.layers.items():
        if name.endswith(PROJECTION):
            tensors[f"{name}.features"] = ("F16", (steps, layer.shape[0]))


def _is_temporal(name: str) -> bool:
    return name.startswith("time_embedding.") or f"{PROJECTION}." in f"{name}."


def _correction(network: Network, steps: int) -> Tensors:
    channels = network.image_channels
    tables = {"gain": (steps, channels), "bias": (steps, channels)}
    tensors: Tensors = {f"correction.{k}": ("F32", v) for k, v in tables.items()}
    return tensors | {"correction.residual_std": ("F32", (steps,))}


def _layer(layer: LayerShape, bits: LayerBits, recipe: Recipe) -> Tensors:
    kinds = {item.kind: item for item in recipe.method.passes}
    name, (rows, columns) = layer.name, layer.shape[:2]
    is_halved = "up_blocks" in name and name.endswith(".conv_shortcut")
    parts = 2 if "split" in kinds and is_halved else 1
    size = math.ceil(layer.weights * _weight_bits(bits, recipe) / 8)
    tensors: Tensors = {
        f"{name}.weight_codes": ("U8", (size,)),
        f"{name}.weight_scale": ("F32", (rows, parts)),
        f"{name}.weight_zero_point": ("U8", (rows, parts)),
    }
    tcr = kinds.get("tcr")
    is_included = isinstance(tcr, TCR) and tcr.layers == "all"
    if tcr and (len(layer.shape) == 4 or (is_included and not _is_temporal(name))):
        tensors[f"{name}.input_rescale"] = ("F32", (columns,))
    if bits.activation_bits < 16:
        tensors |= _input_grids(name, parts, recipe)
    return tensors


def _input_grids(name: str, parts: int, recipe: Recipe) -> Tensors:
    grids, steps = f"{name}.input_quantizer", recipe.calibration.num_steps
    for item in recipe.method.passes:
        match item:
            case Modulate() if not _is_temporal(name):
                by_step = _table(f"{grids}.grid", steps, parts)
                return by_step if item.ranges == "step" else {}
            case Temporal() if item.finite_set and _is_temporal(name):
                return _table(grids, steps, parts)
            case _:
                pass
    return _grids(grids, parts, recipe)


def _weight_bits(bits: LayerBits, recipe: Recipe) -> float:
    for item in recipe.method.passes:
        if isinstance(item, Allocate):
            return item.average_weight_bits
    return bits.weight_bits


def _attention(name: str, bits: LayerBits, recipe: Recipe) -> Tensors:
    groups = 1
    for item in recipe.method.passes:
        if isinstance(item, DAQ):
            groups = item.num_groups
    tensors: Tensors = {
        f"{name}.softmax.{kind}": ("F32", (groups,)) for kind in ("scale", "log_step")
    }
    if bits.activation_bits < 16:
        for operand in ("q", "k", "v"):
            tensors |= _grids(f"{name}.processor.operands.{operand}", 1, recipe)
    return tensors


def _grids(name: str, parts: int, recipe: Recipe) -> Tensors:
    steps = recipe.calibration.num_steps
    rows, has_map = 1, False
    for item in recipe.method.passes:
        if isinstance(item, FitRanges) and item.timesteps in {"step", "function"}:
            rows = steps
        elif isinstance(item, FitRanges) and item.timesteps == "groups":
            rows, has_map = min(item.num_groups, steps), True
    tensors = _table(name, rows, parts)
    if has_map:
        tensors[f"{name}.row_of_step"] = ("U8", (steps,))
    return tensors


def _table(name: str, rows: int, parts: int) -> Tensors:
    return {
        f"{name}.scale": ("F32", (rows, parts)),
        f"{name}.zero_point": ("U8", (rows, parts)),
    }


def _header_bytes(tensors: Tensors) -> int:
    header: dict[str, object] = {"__metadata__": {"format": "tcaq-packed"}}
    at = 0
    # Wide types first, then by name: the order in which safetensors writes them.
    for name in sorted(tensors, key=lambda n: (-BYTES[tensors[n][0]], n)):
        dtype, shape = tensors[name]
        end = at + _bytes(dtype, shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    length = len(json.dumps(header, separators=(",", ":")))
    return 8 + -(-length // 8) * 8


def _bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return BYTES[dtype] * math.prod(shape)

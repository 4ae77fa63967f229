"""Compiles every Triton kernel for some NVIDIA architectures, on any machine.

Run as a program in a process of its own: Triton must not interpret here. Prints, as
JSON, what each compiled kernel is made of.
"""

import json
import re
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tcaq_core.runtime.triton_attention import int8_attention
from tcaq_core.runtime.triton_codes import EXACT
from tcaq_core.runtime.triton_matmul import CONFIGS, int8_convolution
from tcaq_core.runtime.triton_norm import group_moments, normalized_codes
from tcaq_core.runtime.triton_quantize import plain_codes

POINTERS = {
    **dict.fromkeys(("x", "q", "k", "v"), "*u8"),
    **dict.fromkeys(("first", "second", "add", "means", "squares"), "*fp32"),
    **dict.fromkeys(("shift", "bias", "reciprocal"), "*fp32"),
    **dict.fromkeys(("q_scale", "k_scale", "v_scale", "map_scale"), "*fp32"),
    **dict.fromkeys(("q_zero", "k_zero", "v_zero", "zero_point"), "*i32"),
    "log_step": "*fp32",
    "weight_scale": "*fp32",
    "weight_sum": "*i32",
}
# These keep whatever address a table gives them.
UNALIGNED = {"scale", "zero_point", "log_step", "map_scale", "eps", "top"}
UNALIGNED |= {f"{o}_{part}" for o in "qkv" for part in ("scale", "zero")}
GROUPS = {"ROWS": 32, "GROUPS": 32, "SIZE": 4, "WHOLE": True}
KERNELS: dict[str, tuple[Any, dict[str, str], dict[str, Any]]] = {
    "plain_codes": (
        plain_codes,
        {"scale": "*fp32", "out": "*u8"},
        {"ROWS": 32, "CHANNELS": 128},
    ),
    "group_moments": (group_moments, {}, GROUPS),
    "normalized_codes": (
        normalized_codes,
        {"scale": "*fp32", "out": "*u8", "weight": "*fp32", "eps": "fp32"},
        {"SILU": True, **GROUPS, "CHUNKS": 32},
    ),
    "int8_attention": (
        int8_attention,
        {"scale": "fp32", "out": "*fp32"},
        {"BLOCK_M": 64, "BLOCK_L": 64, "BLOCK_D": 64, "BLOCK_V": 64},
    ),
}
LARGE, SMALL = CONFIGS[1], CONFIGS[-1]
SIZES = {"KERNEL_Y": 3, "KERNEL_X": 3, "MOVES": True}


def compiled(
    kernel: Any,  # noqa: ANN401  (Triton has no types)
    types: dict[str, str],
    constants: dict[str, Any],
    options: dict[str, Any],
    capability: int,
) -> dict[str, Any]:
    """Return the instructions and the resources of one kernel."""
    types = {**POINTERS, **types, **dict.fromkeys(constants, "constexpr")}
    signature = {name: types.get(name, "i32") for name in kernel.arg_names}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(kernel.arg_names)
        if name not in UNALIGNED
        and name not in constants
        and not name.startswith(("stride", "padding", "dilation"))
    }
    source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=aligned)
    target = GPUTarget("cuda", capability, 32)
    result = triton.compile(source, target=target, options=options)
    ptx = result.asm["ptx"]
    return {
        "products": sorted(set(re.findall(r"(?:wgmma\.mma_async|mma\.sync)\S+", ptx))),
        "contracted": len(re.findall(r"\bfma\.rn\.f32", ptx)),
        "shared": result.metadata.shared,
        "vectors": sorted(set(re.findall(r"(?:ld|st)\.global\S*\.v\d\S*", ptx))),
    }


def everything(capability: int) -> dict[str, dict[str, Any]]:
    """Return `compiled` for every kernel; of products' tiles, two that differ most."""
    found = {
        name: compiled(kernel, types, constants, dict(EXACT), capability)
        for name, (kernel, types, constants) in KERNELS.items()
    }
    for config in (LARGE, SMALL):
        name = "int8_convolution_" + "x".join(map(str, config.kwargs.values()))
        shape = {"num_warps": config.num_warps, "num_stages": config.num_stages}
        found[name] = compiled(
            int8_convolution,
            {"scale": "*fp32", "out": "*fp32", "weight": "*i8"},
            {**SIZES, **config.kwargs},
            {**shape, **EXACT},
            capability,
        )
    return found


if __name__ == "__main__":
    report = {capability: everything(int(capability)) for capability in sys.argv[1:]}
    json.dump(report, sys.stdout)

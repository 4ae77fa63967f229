"""Integer convolution and matrix product: int8 tensor cores, everything else fused.

Implicit GEMM: a row of the left factor is an output pixel, its columns are the taps
times the channels, gathered while loading. Sums are exact int32, so the tile sizes
that autotuning picks never change a result.
"""

from dataclasses import dataclass
from typing import Any, no_type_check

import triton
import triton.language as tl
from torch import Tensor

from tcaq_core.runtime.triton_codes import EXACT, signed


@triton.jit
@no_type_check
def tap_sum(
    x, weight, start, top, left, real, n, zero, channels, outputs, height, width,
    dilation_y, dilation_x,
    KERNEL_Y: tl.constexpr, KERNEL_X: tl.constexpr, MOVES: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Return sum (q - 128) w over the taps and channels, (BLOCK_M, BLOCK_N) int32.

    start, top and left (BLOCK_M,) say where each output pixel's first tap lies.
    """
    k = tl.arange(0, BLOCK_K)
    blocks = tl.cdiv(channels, BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.int32)
    for step in range(blocks * KERNEL_Y * KERNEL_X):
        tap = step // blocks
        c = (step % blocks) * BLOCK_K + k
        inside = real
        source = start
        if MOVES:
            down = (tap // KERNEL_X) * dilation_y
            right = (tap % KERNEL_X) * dilation_x
            inside = inside & (top + down >= 0) & (top + down < height)
            inside = inside & (left + right >= 0) & (left + right < width)
            source = start + down * width + right
        # Padding is the zero point: it then adds nothing, as every code does.
        codes = tl.load(
            x + (source * channels)[:, None] + c[None, :],
            mask=inside[:, None] & (c < channels)[None, :],
            other=zero.to(tl.uint8),
        )
        column = n * (channels * KERNEL_Y * KERNEL_X) + tap * channels
        w = tl.load(
            weight + column[None, :] + c[:, None],
            mask=(n < outputs)[None, :] & (c < channels)[:, None],
            other=0,
        )
        acc = tl.dot(signed(codes), w, acc, out_dtype=tl.int32)
    return acc


@triton.jit(do_not_specialize_on_alignment=["scale", "zero_point"])
@no_type_check
def int8_convolution(
    x, weight, out, bias, add, scale, zero_point, weight_scale, weight_sum,
    rows, channels, outputs, height, width, out_height, out_width,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    KERNEL_Y: tl.constexpr, KERNEL_X: tl.constexpr, MOVES: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Compute one tile of out (rows, outputs) from x (N, H, W, C), both row-major.

    weight is (outputs, KERNEL_Y, KERNEL_X, channels). Without MOVES a row of out
    needs exactly the same row of x: a matrix product.
    """
    tiles_n = tl.cdiv(outputs, BLOCK_N)
    # Neighbouring programs share the pixels, which are the larger factor.
    first = (tl.program_id(0) // tiles_n) * BLOCK_M
    local = tl.arange(0, BLOCK_M)
    m = first + local
    n = (tl.program_id(0) % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    pixel = m % (out_height * out_width)
    top = (pixel // out_width) * stride_y - padding_y
    left = (pixel % out_width) * stride_x - padding_x
    start = m.to(tl.int64)
    if MOVES:
        image = m // (out_height * out_width)
        start = (image.to(tl.int64) * height + top) * width + left
    zero = tl.load(zero_point).to(tl.int32)
    acc = tap_sum(
        x, weight, start, top, left, m < rows, n, zero, channels, outputs, height,
        width, dilation_y, dilation_x, KERNEL_Y, KERNEL_X, MOVES, BLOCK_M, BLOCK_N,
        BLOCK_K,
    )  # fmt: skip
    there = n < outputs
    # sum (q - 128) w = sum (q - zero) w + (zero - 128) sum w
    acc -= ((zero - 128) * tl.load(weight_sum + n, mask=there, other=0))[None, :]
    factor = tl.load(scale) * tl.load(weight_scale + n, mask=there, other=0.0)
    value = acc.to(tl.float32) * factor[None, :]
    if bias is not None:
        value += tl.load(bias + n, mask=there, other=0.0).to(tl.float32)[None, :]
    # 64 bits once for the tile, not in every lane: the registers hold sums.
    tile = first.to(tl.int64) * outputs
    offset = local[:, None] * outputs + n[None, :]
    mask = (m < rows)[:, None] & there[None, :]
    if add is not None:
        value += tl.load(add + tile + offset, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + tile + offset, value.to(out.dtype.element_ty), mask=mask)


def _config(m: int, n: int, k: int, *, warps: int, stages: int) -> triton.Config:
    tiles = {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k}
    return triton.Config(tiles, num_warps=warps, num_stages=stages)


CONFIGS = (
    _config(128, 256, 64, warps=8, stages=3),
    _config(128, 128, 128, warps=8, stages=3),
    _config(128, 128, 64, warps=8, stages=4),
    _config(128, 64, 128, warps=8, stages=3),
    _config(64, 128, 128, warps=4, stages=4),
    _config(64, 64, 128, warps=4, stages=4),
    _config(64, 64, 64, warps=4, stages=4),
    _config(32, 64, 128, warps=4, stages=4),
)
"""Tile sizes that a GPU tries once for each shape; sensible for sm_80 and sm_90."""

# Triton's interpreter runs on CPU tensors: small tiles, nothing to tune.
INTERPRETED = {"BLOCK_M": 32, "BLOCK_N": 16, "BLOCK_K": 32}


def _worth_trying(
    configs: list[triton.Config], arguments: dict[str, Any], **_: object
) -> list[triton.Config]:
    """Leave out tiles that would be mostly empty."""
    limits = {"BLOCK_M": "rows", "BLOCK_N": "outputs", "BLOCK_K": "channels"}
    fitting = [
        config
        for config in configs
        if all(
            config.kwargs[block] <= max(64, triton.next_power_of_2(arguments[size]))
            for block, size in limits.items()
        )
    ]
    return fitting or list(configs)


tuned_convolution = triton.autotune(
    configs=list(CONFIGS),
    key=["rows", "channels", "outputs", "KERNEL_Y", "KERNEL_X", "stride_y"],
    prune_configs_by={"early_config_prune": _worth_trying},
)(int8_convolution)


@dataclass(frozen=True)
class Sizes:
    """The sizes of a convolution; a matrix product is one that does not move."""

    rows: int
    channels: int
    outputs: int
    height: int = 1
    width: int = 1
    out_height: int = 1
    out_width: int = 1
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    kernel: tuple[int, int] = (1, 1)

    @property
    def moves(self) -> bool:
        """Whether an output pixel needs anything but its own input pixel."""
        still = self.kernel == (1, 1) and self.stride == (1, 1)
        return not (still and self.padding == (0, 0))


def convolve(
    codes: Tensor,
    weight: Tensor,
    out: Tensor,
    *,
    bias: Tensor | None,
    add: Tensor | None,
    scale: Tensor,
    zero_point: Tensor,
    weight_scale: Tensor,
    weight_sum: Tensor,
    sizes: Sizes,
) -> None:
    """Write the convolution into `out`; tensors as `int8_convolution` wants them."""
    arguments = (
        *(codes, weight, out, bias, add),
        *(scale, zero_point, weight_scale, weight_sum),
        *(sizes.rows, sizes.channels, sizes.outputs),
        *(sizes.height, sizes.width, sizes.out_height, sizes.out_width),
        *(*sizes.stride, *sizes.padding, *sizes.dilation, *sizes.kernel),
        sizes.moves,
    )
    if codes.is_cuda:
        tuned_convolution[lambda tiles: (_tiles(sizes, tiles),)](*arguments, **EXACT)
    else:
        int8_convolution[(_tiles(sizes, INTERPRETED),)](*arguments, **INTERPRETED)


def _tiles(sizes: Sizes, tiles: dict[str, int]) -> int:
    across = triton.cdiv(sizes.outputs, tiles["BLOCK_N"])
    return int(triton.cdiv(sizes.rows, tiles["BLOCK_M"]) * across)

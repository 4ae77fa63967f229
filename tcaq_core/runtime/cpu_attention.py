"""Attention of codes on a CPU: int8 products where they pay, always exact integers.

Products of whole codes are sums of products of codes minus 128 (what signed integer
instructions multiply) plus sums of each operand's own codes, all exact in int32. Heads
too shallow for that are multiplied in float32 on the same integers: below 2^24 a sum
of them has no rounding either. So are all of them where signed products saturate.
"""

from functools import cache
from typing import Final

import torch
from jaxtyping import Float, Int, Int8, UInt8
from torch import Tensor

from tcaq_core.runtime.kernels import Grid, SoftmaxGrid
from tcaq_core.runtime.native import Native
from tcaq_core.runtime.products import Centred, FloatScores, Products

SHALLOW: Final = 32
"""Channels of a head below which float32 is faster than one int8 call a head."""

Grids = tuple[Grid, Grid, Grid]


def attend(
    native: Native,
    operands: tuple[
        UInt8[Tensor, "N L C"], UInt8[Tensor, "N L C"], UInt8[Tensor, "N L C"]
    ],
    grids: Grids,
    softmax: SoftmaxGrid,
    *,
    heads: int,
    scale: float,
) -> Float[Tensor, "N L C"]:
    """Return Q(softmax(scale * q k^T)) v, as `Kernels.attention`."""
    is_uniform = float(softmax.log_step) == 0
    depth = operands[0].shape[-1] // heads
    if depth < SHALLOW or not products_are_exact():
        return _in_floats(native, operands, grids, softmax, heads=heads, scale=scale)
    q, k, v = (native.center(codes, heads=heads) for codes in operands)
    scores = _scores(q, k, grids, scale=scale)
    if is_uniform:
        return native.rescale(_mixed(native, scores, v, grids[2], softmax))
    values = native.softmax_values(scores, softmax)
    centred = _whole(operands[2], grids[2], heads)
    return _joined(torch.matmul(values, centred) * grids[2].scale)


@cache
def products_are_exact() -> bool:
    """Return whether this processor's signed products are exact, for all codes.

    Without VNNI they are not, as in `cpu.is_exact`: whatever the weights have, codes
    of attention operands have 8 bits.
    """
    largest = torch.full((64, 64), 127, dtype=torch.int8)
    return all(
        bool((torch._int_mm(largest, other) == 64 * 127 * value).all())  # noqa: SLF001
        for value in (-128, 127)
        for other in [torch.full((64, 64), value, dtype=torch.int8)]
    )


def _in_floats(
    native: Native,
    operands: tuple[Tensor, Tensor, Tensor],
    grids: Grids,
    softmax: SoftmaxGrid,
    *,
    heads: int,
    scale: float,
) -> Float[Tensor, "N L C"]:
    q, k, v = (
        _whole(codes, grid, heads) for codes, grid in zip(operands, grids, strict=True)
    )
    factor = scale * float(grids[0].scale) * float(grids[1].scale)
    scores = FloatScores(torch.matmul(q, k.transpose(-1, -2)), factor)
    values = native.softmax_values(scores, softmax)
    step = grids[2].scale
    if float(softmax.log_step) == 0:
        step = step * softmax.scale
    return _joined(torch.matmul(values, v) * step)


def _scores(q: Centred, k: Centred, grids: Grids, *, scale: float) -> Products:
    row_factor, column_factor = _shift(grids[1]), _shift(grids[0])
    return Products(
        _products(q.values, k.values.transpose(-1, -2)),
        q.over_depth,
        k.over_depth,
        row_factor,
        column_factor,
        q.values.shape[-1] * row_factor * column_factor,
        scale * float(grids[0].scale) * float(grids[1].scale),
    )


def _mixed(
    native: Native, scores: Products, v: Centred, grid: Grid, softmax: SoftmaxGrid
) -> Products:
    codes, sums = native.softmax_codes(scores, softmax)
    return Products(
        _products(codes, v.values),
        sums,
        v.over_length,
        _shift(grid),
        128,  # the map's zero point is 0
        codes.shape[-1] * 128 * _shift(grid),
        float(softmax.scale) * float(grid.scale),
    )


def _products(
    a: Int8[Tensor, "N heads I K"], b: Int8[Tensor, "N heads K J"]
) -> Int[Tensor, "N heads I J"]:
    n, heads, rows, _ = a.shape
    out = torch.empty((n, heads, rows, b.shape[-1]), dtype=torch.int32)
    for sample in range(n):
        for head in range(heads):
            torch._int_mm(  # noqa: SLF001  (the only integer product torch has)
                a[sample, head], b[sample, head], out=out[sample, head]
            )
    return out


def _shift(grid: Grid) -> int:
    return 128 - int(grid.zero_point)


def _whole(codes: Tensor, grid: Grid, heads: int) -> Float[Tensor, "N heads L d"]:
    by_head: Tensor = (codes.float() - grid.zero_point).unflatten(-1, (heads, -1))
    return by_head.transpose(1, 2)


def _joined(x: Float[Tensor, "N heads L d"]) -> Float[Tensor, "N L C"]:
    return x.transpose(1, 2).flatten(2)

"""Codes of activations, fused with what comes before: concatenation, SiLU, factors.

Activations are read as (rows, channels), row-major: channels-last images, or the
rows of a matrix. Two tensors stand for their concatenation along the channels, which
is never made.
"""

from typing import no_type_check

import triton
import triton.language as tl

from tcaq_core.runtime.triton_codes import codes_of, reciprocal_of


@triton.jit
@no_type_check
def joined_tile(first, second, first_channels, channels, row, c, inside):
    """Return float32 values of the concatenation at rows x channels; 0 outside."""
    row = row.to(tl.int64)[:, None]
    in_first = (c < first_channels)[None, :]
    x = tl.load(
        first + row * first_channels + c[None, :], mask=inside & in_first, other=0.0
    ).to(tl.float32)
    if second is not None:
        rest = tl.load(
            second + row * (channels - first_channels) + (c - first_channels)[None, :],
            mask=inside & (c >= first_channels)[None, :],
            other=0.0,
        ).to(tl.float32)
        x = tl.where(in_first, x, rest)
    return x


@triton.jit
@no_type_check
def store_codes(
    x, out, reciprocal, scale, zero_point, top, channels, row, c, inside,
    SILU: tl.constexpr,
):  # fmt: skip
    """Write the codes of [silu](x) * reciprocal."""
    if SILU:
        x = x / (1.0 + tl.exp(-x))
    if reciprocal is not None:
        x = x * tl.load(reciprocal + c, mask=c < channels, other=0.0)[None, :]
    zero = tl.load(zero_point).to(tl.float32)
    codes = codes_of(x, reciprocal_of(scale), zero, top.to(tl.float32))
    offset = row.to(tl.int64)[:, None] * channels + c[None, :]
    tl.store(out + offset, codes.to(tl.uint8), mask=inside)


@triton.jit(do_not_specialize_on_alignment=["scale", "zero_point"])
@no_type_check
def plain_codes(
    first,
    second,
    out,
    reciprocal,
    scale,
    zero_point,
    top,
    rows,
    first_channels,
    channels,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Write the codes of one tile."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = (row < rows)[:, None] & (c < channels)[None, :]
    x = joined_tile(first, second, first_channels, channels, row, c, inside)
    store_codes(
        x, out, reciprocal, scale, zero_point, top, channels, row, c, inside, False
    )

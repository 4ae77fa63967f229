"""Group normalisation that writes codes, in two launches.

`group_moments` leaves mean and sum of squared deviations of every group in every chunk
of pixels; `normalized_codes` merges them (Chan, Golub and LeVeque's formula) and writes
codes. The second reading comes out of the cache. A group may straddle the border
between two sources; their layout is that of triton_quantize.py.
"""

from typing import no_type_check

import triton
import triton.language as tl

from tcaq_core.runtime.triton_quantize import joined_tile, store_codes


@triton.jit
@no_type_check
def by_group(x, GROUPS: tl.constexpr, SIZE: tl.constexpr):
    """Return the sums (GROUPS,) of a tile (rows, GROUPS * SIZE)."""
    return tl.sum(tl.reshape(tl.sum(x, axis=0), (GROUPS, SIZE)), axis=1)


@triton.jit
@no_type_check
def by_channel(x, GROUPS: tl.constexpr, SIZE: tl.constexpr):
    """Return each group's number (GROUPS,) once a channel: (GROUPS * SIZE,)."""
    return tl.reshape(tl.broadcast_to(x[:, None], (GROUPS, SIZE)), (GROUPS * SIZE,))


@triton.jit
@no_type_check
def lanes(
    groups, group_size, GROUPS: tl.constexpr, SIZE: tl.constexpr, WHOLE: tl.constexpr
):
    """Return each lane's channel and whether there is one.

    WHOLE: groups fill their lanes, so that neighbours are written together.
    """
    lane = tl.arange(0, GROUPS * SIZE)
    if WHOLE:
        c = tl.program_id(2) * (GROUPS * SIZE) + lane
        return c, c < groups * group_size
    group = tl.program_id(2) * GROUPS + lane // SIZE
    real = (lane % SIZE < group_size) & (group < groups)
    return group * group_size + lane % SIZE, real


@triton.jit
@no_type_check
def shifted_tile(
    first, second, shift, first_channels, channels, image, pixels, pixel, c, inside
):
    """Return x + shift for some pixels of one image; 0 outside."""
    x = joined_tile(
        first, second, first_channels, channels, image * pixels + pixel, c, inside
    )
    if shift is not None:
        added = tl.load(shift + image * channels + c, mask=c < channels, other=0.0)
        x = tl.where(inside, x + added.to(tl.float32)[None, :], 0.0)
    return x


@triton.jit
@no_type_check
def group_moments(
    first,
    second,
    shift,
    means,
    squares,
    pixels,
    first_channels,
    channels,
    groups,
    group_size,
    chunk_pixels,
    ROWS: tl.constexpr,
    GROUPS: tl.constexpr,
    SIZE: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """Write mean and summed squares about it: means, squares (N, chunks, groups).

    A tile holds GROUPS groups of SIZE channels, SIZE the power of two that holds
    `group_size`.
    """
    image, chunk = tl.program_id(0), tl.program_id(1)
    c, real = lanes(groups, group_size, GROUPS, SIZE, WHOLE)
    begin = chunk * chunk_pixels
    end = tl.minimum(begin + chunk_pixels, pixels)
    total = tl.zeros((GROUPS,), tl.float32)
    for at in range(begin, end, ROWS):
        pixel = at + tl.arange(0, ROWS)
        inside = (pixel < end)[:, None] & real[None, :]
        x = shifted_tile(
            first, second, shift, first_channels, channels, image, pixels, pixel, c,
            inside,
        )  # fmt: skip
        total += by_group(x, GROUPS, SIZE)
    mean = total / ((end - begin) * group_size).to(tl.float32)
    middle = by_channel(mean, GROUPS, SIZE)
    square = tl.zeros((GROUPS,), tl.float32)
    for at in range(begin, end, ROWS):
        pixel = at + tl.arange(0, ROWS)
        inside = (pixel < end)[:, None] & real[None, :]
        x = shifted_tile(
            first, second, shift, first_channels, channels, image, pixels, pixel, c,
            inside,
        )  # fmt: skip
        off = tl.where(inside, x - middle[None, :], 0.0)
        square += by_group(off * off, GROUPS, SIZE)
    own = tl.program_id(2) * GROUPS + tl.arange(0, GROUPS)
    place = (image * tl.num_programs(1) + chunk) * groups + own
    tl.store(means + place, mean, mask=own < groups)
    tl.store(squares + place, square, mask=own < groups)


@triton.jit
@no_type_check
def merged_moments(
    means, squares, image, own, pixels, groups, group_size, chunks, chunk_pixels,
    CHUNKS: tl.constexpr,
):  # fmt: skip
    """Return mean and variance (GROUPS,) of an image's groups from its chunks'."""
    chunk = tl.arange(0, CHUNKS)
    place = (image * chunks + chunk)[:, None] * groups + own[None, :]
    mask = (chunk < chunks)[:, None] & (own < groups)[None, :]
    mean = tl.load(means + place, mask=mask, other=0.0)
    square = tl.load(squares + place, mask=mask, other=0.0)
    held = tl.minimum(pixels - chunk * chunk_pixels, chunk_pixels)
    count = (tl.maximum(held, 0) * group_size).to(tl.float32)[:, None]
    number = (pixels * group_size).to(tl.float32)
    whole = tl.sum(mean * count, axis=0) / number
    off = mean - whole[None, :]
    return whole, tl.sum(square + count * off * off, axis=0) / number


@triton.jit(do_not_specialize_on_alignment=["scale", "zero_point"])
@no_type_check
def normalized_codes(
    first,
    second,
    shift,
    means,
    squares,
    weight,
    bias,
    out,
    reciprocal,
    scale,
    zero_point,
    top,
    eps,
    pixels,
    first_channels,
    channels,
    groups,
    group_size,
    chunks,
    chunk_pixels,
    SILU: tl.constexpr,
    ROWS: tl.constexpr,
    GROUPS: tl.constexpr,
    SIZE: tl.constexpr,
    WHOLE: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    """Write the codes of one tile of the normalisation of x + shift."""
    image = tl.program_id(0)
    own = tl.program_id(2) * GROUPS + tl.arange(0, GROUPS)
    mean, variance = merged_moments(
        means, squares, image, own, pixels, groups, group_size, chunks, chunk_pixels,
        CHUNKS,
    )  # fmt: skip
    c, real = lanes(groups, group_size, GROUPS, SIZE, WHOLE)
    pixel = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    inside = (pixel < pixels)[:, None] & real[None, :]
    x = shifted_tile(
        first, second, shift, first_channels, channels, image, pixels, pixel, c, inside
    )
    gain = by_channel(tl.div_rn(1.0, tl.sqrt_rn(variance + eps)), GROUPS, SIZE)
    gain = gain * tl.load(weight + c, mask=real, other=0.0).to(tl.float32)
    x = (x - by_channel(mean, GROUPS, SIZE)[None, :]) * gain[None, :]
    x = x + tl.load(bias + c, mask=real, other=0.0).to(tl.float32)[None, :]
    store_codes(
        x, out, reciprocal, scale, zero_point, top, channels, image * pixels + pixel,
        c, inside, SILU,
    )  # fmt: skip

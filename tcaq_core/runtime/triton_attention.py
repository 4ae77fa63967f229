"""Self-attention on codes: integer products, the softmax map on its grid, never stored.

Every program owns some queries of one head and goes over the keys twice. The first
time it finds each row's largest logit and sum of exponentials; the second time it
computes the map's entries again, rounds them to their grid and multiplies values.
"""

from typing import no_type_check

import triton
import triton.language as tl

from tcaq_core.runtime.triton_codes import codes_of, nearest, reciprocal_of, signed


@triton.jit
@no_type_check
def operand(codes, row, column, rows, columns, channels):
    """Return code - 128 as int8 (rows, columns); 0 outside."""
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    offset = row.to(tl.int64)[:, None] * channels + column[None, :]
    return signed(tl.load(codes + offset, mask=inside, other=128))


@triton.jit
@no_type_check
def logits_of(
    q, k, q_sum, key, depth, length, width, channels, q_shift, k_shift, factor
):
    """Return factor * sum (q - zero) (k - zero) in float32; -inf beyond the keys.

    q (queries, depth) is loaded, k a pointer; q_sum the rows' sums; shifts are
    128 - zero point.
    """
    keys = operand(k, key, depth, length, width, channels)
    k_sum = tl.sum(keys.to(tl.int32), axis=1)
    dot = tl.dot(q, tl.trans(keys), out_dtype=tl.int32)
    dot += (k_shift * q_sum)[:, None] + (q_shift * k_sum)[None, :]
    dot += width * q_shift * k_shift
    return tl.where((key < length)[None, :], dot.to(tl.float32) * factor, -float("inf"))


@triton.jit
@no_type_check
def mixed_uniform(
    q, k, v, q_sum, largest, total, depth, column, length, width, channels,
    q_shift, k_shift, v_shift, factor, map_scale, top,
    BLOCK_M: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Return sum code(a) (v - zero), exact in int32, as float32."""
    inverse = reciprocal_of(map_scale)
    acc = tl.zeros((BLOCK_M, BLOCK_V), tl.int32)
    map_sum = tl.zeros((BLOCK_M,), tl.int32)
    v_sum = tl.zeros((BLOCK_V,), tl.int32)
    for at in range(0, length, BLOCK_L):
        key = at + tl.arange(0, BLOCK_L)
        logits = logits_of(
            q, k, q_sum, key, depth, length, width, channels, q_shift, k_shift, factor
        )
        entry = tl.exp(logits - largest[:, None]) / total[:, None]
        codes = codes_of(entry, inverse, 0.0, top).to(tl.uint8)
        values = operand(v, key, column, length, width, channels)
        acc = tl.dot(signed(codes), values, acc, out_dtype=tl.int32)
        map_sum += tl.sum(codes.to(tl.int32), axis=1)
        v_sum += tl.sum(values.to(tl.int32), axis=0)
    # sum c (v' + s) with c = c' + 128: keys beyond the length have c = 0 and v' = 0.
    acc += 128 * v_sum[None, :] + (v_shift * map_sum)[:, None]
    return acc.to(tl.float32) * tl.load(map_scale)


@triton.jit
@no_type_check
def mixed_logarithmic(
    q, k, v, q_sum, largest, total, depth, column, length, width, channels,
    q_shift, k_shift, v_shift, factor, map_scale, step, top,
    BLOCK_M: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Return sum a_hat (v - zero) for powers of 2^step, as `fake_quantize_log`."""
    inverse = reciprocal_of(map_scale)
    peak = tl.load(map_scale)
    per_step = tl.div_rn(1.0, step)
    acc = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
    for at in range(0, length, BLOCK_L):
        key = at + tl.arange(0, BLOCK_L)
        logits = logits_of(
            q, k, q_sum, key, depth, length, width, channels, q_shift, k_shift, factor
        )
        entry = tl.exp(logits - largest[:, None]) / total[:, None]
        # log2(0) is -inf, and so is beyond the last code: zero, as it has to be.
        exponent = -tl.log2(entry * inverse)
        codes = tl.maximum(nearest(exponent * per_step), 0.0)
        entry = tl.where(codes <= top, peak * tl.exp2(-(codes * step)), 0.0)
        values = operand(v, key, column, length, width, channels)
        centred = (values.to(tl.int32) + v_shift).to(tl.float32)
        # Three TF32 products give float32's precision on tensor cores.
        acc = tl.dot(entry, centred, acc, input_precision="tf32x3")
    return acc


@triton.jit
@no_type_check
def softmax_statistics(
    q, k, q_sum, depth, length, width, channels, q_shift, k_shift, factor,
    BLOCK_M: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    """Return each query's largest logit and sum of exponentials relative to it."""
    largest = tl.full((BLOCK_M,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    for at in range(0, length, BLOCK_L):
        key = at + tl.arange(0, BLOCK_L)
        logits = logits_of(
            q, k, q_sum, key, depth, length, width, channels, q_shift, k_shift, factor
        )
        now = tl.maximum(largest, tl.max(logits, axis=1))
        total = total * tl.exp(largest - now)
        total += tl.sum(tl.exp(logits - now[:, None]), axis=1)
        largest = now
    return largest, total


@triton.jit(
    do_not_specialize_on_alignment=[
        "q_scale", "k_scale", "v_scale", "q_zero", "k_zero", "v_zero",
        "map_scale", "log_step",
    ]
)  # fmt: skip
@no_type_check
def int8_attention(
    q, k, v, out,
    q_scale, k_scale, v_scale, q_zero, k_zero, v_zero, map_scale, log_step,
    top, length, heads, width, scale,
    BLOCK_M: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Write some queries' and values' share of one head of out (N, L, C).

    Whether the map's grid is uniform is read on the device, so one CUDA graph serves
    every timestep.
    """
    channels = heads * width
    image, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    first = image.to(tl.int64) * length * channels + head * width
    query = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    depth = tl.arange(0, BLOCK_D)
    column = tl.program_id(2) * BLOCK_V + tl.arange(0, BLOCK_V)
    q_shift = 128 - tl.load(q_zero).to(tl.int32)
    k_shift = 128 - tl.load(k_zero).to(tl.int32)
    v_shift = 128 - tl.load(v_zero).to(tl.int32)
    factor = tl.load(q_scale) * tl.load(k_scale) * scale
    queries = operand(q + first, query, depth, length, width, channels)
    q_sum = tl.sum(queries.to(tl.int32), axis=1)
    largest, total = softmax_statistics(
        queries, k + first, q_sum, depth, length, width, channels, q_shift, k_shift,
        factor, BLOCK_M, BLOCK_L,
    )  # fmt: skip
    step = tl.load(log_step)
    last = top.to(tl.float32)
    if step == 0.0:
        mixed = mixed_uniform(
            queries, k + first, v + first, q_sum, largest, total, depth, column,
            length, width, channels, q_shift, k_shift, v_shift, factor, map_scale,
            last, BLOCK_M, BLOCK_L, BLOCK_V,
        )  # fmt: skip
    else:
        mixed = mixed_logarithmic(
            queries, k + first, v + first, q_sum, largest, total, depth, column,
            length, width, channels, q_shift, k_shift, v_shift, factor, map_scale,
            step, last, BLOCK_M, BLOCK_L, BLOCK_V,
        )  # fmt: skip
    mixed = mixed * tl.load(v_scale)
    offset = query.to(tl.int64)[:, None] * channels + column[None, :]
    inside = (query < length)[:, None] & (column < width)[None, :]
    tl.store(out + first + offset, mixed.to(out.dtype.element_ty), mask=inside)

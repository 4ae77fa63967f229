"""What every Triton kernel of ours shares: the code of a number, its signed form.

Kernels that call `codes_of` or `nearest` must be launched with ``EXACT``: contracting
a multiplication and an addition into one rounding changes codes.
"""

from typing import no_type_check

import triton
import triton.language as tl

EXACT = {"enable_fp_fusion": False}
"""Launch options that keep each float32 operation as it is written."""

# 1.5 * 2^23: from here on float32 holds integers only, so adding it rounds half to
# even, as torch.round does. Beyond 2^22 the clamp decides, not the rounding.
MAGIC = tl.constexpr(12582912.0)


@triton.jit
@no_type_check
def nearest(x):
    """Return the nearest integer, half to even, as a float."""
    return (x + MAGIC) - MAGIC


@triton.jit
@no_type_check
def codes_of(x, inverse, zero_point, top):
    """Return clamp(round(x * inverse) + zero_point, 0, top), as a float."""
    codes = nearest(x * inverse) + zero_point
    return tl.minimum(tl.maximum(codes, 0.0), top)


@triton.jit
@no_type_check
def reciprocal_of(scale):
    """Return 1 / scale, correctly rounded as torch does it; scale is a pointer."""
    return tl.div_rn(1.0, tl.load(scale).to(tl.float32))


@triton.jit
@no_type_check
def signed(codes):
    """Return code - 128 as int8: what the tensor cores multiply."""
    return (codes ^ 0x80).to(tl.int8, bitcast=True)

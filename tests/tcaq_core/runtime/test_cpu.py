"""oneDNN's products and the compiled glue against the same steps in plain torch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tcaq_core.runtime.cpu import OnednnKernels
from tcaq_core.runtime.eager import EagerKernels
from tcaq_core.runtime.kernels import Geometry, Norm, SoftmaxGrid
from tcaq_core.runtime.native import load_native
from tests.tcaq_core.runtime.pairs import EPS, grid

EAGER = EagerKernels()
BITS = st.sampled_from([(4, 15), (6, 63), (8, 255), (5, 31)])


def image(seed: int, *shape: int) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def codes(seed: int, top: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randint(0, top + 1, shape, generator=generator, dtype=torch.uint8)
    return q.contiguous(memory_format=torch.channels_last) if q.ndim == 4 else q


def weights(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8)


@settings(max_examples=25, deadline=None)
@given(
    bits=BITS,
    kernel=st.sampled_from([(1, 1, 0), (3, 1, 1), (3, 2, 1), (3, 2, 0)]),
    channels=st.sampled_from([(3, 5), (16, 32), (33, 7)]),
    size=st.sampled_from([(7, 6), (19, 20)]),
    zero=st.floats(0, 1),
    has_bias=st.booleans(),
    has_add=st.booleans(),
)
def test_a_convolution_is_the_exact_sum_rounded_once_or_twice(
    *,
    bits: tuple[int, int],
    kernel: tuple[int, int, int],
    channels: tuple[int, int],
    size: tuple[int, int],
    zero: float,
    has_bias: bool,
    has_add: bool,
) -> None:
    (_, top), (width, stride, padding) = bits, kernel
    inner, outer = channels
    q = codes(1, top, 2, inner, *size)
    w = weights(2, outer, inner, width, width)
    scale = torch.rand(outer) * 1e-3 + 1e-4
    at = grid(0.02, round(zero * top), top)
    onednn = OnednnKernels(load_native())
    move = Geometry((stride, stride), (padding, padding), (1, 1))
    packed = onednn.pack(w, scale, geometry=move)
    exact = torch.nn.functional.conv2d(
        q.double() - at.zero_point, w.double(), None, stride, padding
    )
    bias = torch.randn(outer) if has_bias else None
    add = image(3, *exact.shape) if has_add else None
    expected = exact * (at.scale.double() * scale.double())[:, None, None]
    size_of = expected.abs()
    for term in (None if bias is None else bias[:, None, None], add):
        if term is not None:
            expected = expected + term
            size_of = size_of + term.abs()
    out = onednn.conv(q, at, packed, bias=bias, add=add)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert bool(((out - expected).abs() <= 4 * EPS * size_of).all())


@settings(max_examples=15, deadline=None)
@given(
    bits=BITS,
    rows=st.sampled_from([1, 3, 40]),
    channels=st.sampled_from([(3, 5), (64, 32), (33, 7)]),
    zero=st.floats(0, 1),
)
def test_a_linear_layer_is_the_exact_sum_rounded_once_or_twice(
    *, bits: tuple[int, int], rows: int, channels: tuple[int, int], zero: float
) -> None:
    (_, top), (inner, outer) = bits, channels
    q, w = codes(1, top, rows, inner), weights(2, outer, inner)
    scale, bias = torch.rand(outer) * 1e-3 + 1e-4, torch.randn(outer)
    at = grid(0.02, round(zero * top), top)
    onednn = OnednnKernels(load_native())
    packed = onednn.pack(w, scale, geometry=None)
    exact = (q.double() - at.zero_point) @ w.double().t()
    expected = exact * at.scale.double() * scale.double()
    out = onednn.linear(q, at, packed, bias=bias, add=None)
    bound = 4 * EPS * (expected.abs() + bias.abs())
    assert bool(((out - (expected + bias)).abs() <= bound).all())
    add = torch.randn(rows, outer)
    kept = add.clone()
    assert torch.equal(onednn.linear(q, at, packed, bias=bias, add=add), out + add)
    assert torch.equal(add, kept)


@pytest.mark.parametrize("channels", [(16,), (12, 4), (5, 27)])
@pytest.mark.parametrize("has_factors", [False, True])
def test_plain_quantization_writes_the_reference_codes(
    onednn: OnednnKernels, *, channels: tuple[int, ...], has_factors: bool
) -> None:
    x = tuple(image(i, 2, c, 9, 5) for i, c in enumerate(channels))
    total = sum(channels)
    reciprocal = torch.rand(total) + 0.5 if has_factors else None
    for top, zero in ((15, 7), (255, 90), (255, 0)):
        at = grid(6.0 / top, zero, top)
        ours = onednn.quantize(x, at, reciprocal=reciprocal)
        assert ours.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(ours, EAGER.quantize(x, at, reciprocal=reciprocal))


def test_rows_are_quantized_like_images(onednn: OnednnKernels) -> None:
    x, at = image(0, 70, 33), grid(0.02, 100, 255)
    reciprocal = torch.rand(33) + 0.5
    ours = onednn.quantize((x,), at, reciprocal=reciprocal)
    assert torch.equal(ours, EAGER.quantize((x,), at, reciprocal=reciprocal))


@pytest.mark.parametrize("channels", [(16,), (12, 4), (20, 12)])
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("extras", [False, True])
def test_normalisation_writes_the_reference_codes(
    onednn: OnednnKernels, *, channels: tuple[int, ...], silu: bool, extras: bool
) -> None:
    """Groups of 8 channels straddle the border between two sources."""
    total = sum(channels)
    x = tuple(3 * image(i, 2, c, 16, 16) + 1 for i, c in enumerate(channels))
    norm = Norm(torch.randn(total), torch.randn(total), total // 8, 1e-5)
    shift = torch.randn(2, total) if extras else None
    reciprocal = torch.rand(total) + 0.5 if extras else None
    at = grid(0.05, 100, 255)
    ours, theirs = (
        kernels.norm_quantize(
            x, norm, at, shift=shift, reciprocal=reciprocal, silu=silu
        )
        for kernels in (onednn, EAGER)
    )
    assert_ties_only(ours, theirs)


def assert_ties_only(ours: Tensor, theirs: Tensor) -> None:
    """Check that codes are equal but for values within rounding of a tie."""
    assert ours.shape == theirs.shape
    difference = (ours.int() - theirs.int()).abs()
    assert int(difference.max()) <= 1
    assert float((difference > 0).float().mean()) < 1e-3
    assert len(theirs.unique()) > 4


@pytest.mark.parametrize(("heads", "depth"), [(1, 64), (4, 8), (2, 40)])
@pytest.mark.parametrize(
    ("log_step", "scale", "num_bits"),
    [
        (0.0, 1 / 255, 8),
        (0.0, 0.02, 4),
        (1.0, 1.0, 8),
        (0.5, 0.9, 4),
        (10 / 37, 0.7, 8),
    ],
)
def test_attention_agrees_with_the_reference(
    onednn: OnednnKernels,
    *,
    heads: int,
    depth: int,
    log_step: float,
    scale: float,
    num_bits: int,
) -> None:
    top, length = 255, 36
    q, k, v = (codes(i, top, 2, length, heads * depth) for i in range(3))
    grids = (grid(0.02, 128, top), grid(0.03, 90, top), grid(0.02, 254, top))
    softmax = SoftmaxGrid(torch.tensor(scale), torch.tensor(log_step), num_bits)
    ours, theirs = (
        kernels.attention(q, k, v, grids, softmax, heads=heads, scale=depth**-0.5)
        for kernels in (onednn, EAGER)
    )
    # One code of the map that falls the other way moves a whole row by a step.
    off = (ours - theirs).abs() > 1e-5 * theirs.abs().max()
    assert float(off.float().mean()) < 0.02
    step = scale if log_step == 0 else 1.0
    assert float((ours - theirs).abs().max()) < step * 0.02 * 256


def test_without_compiled_glue_plain_torch_does_the_same() -> None:
    plain = OnednnKernels(None)
    x, at = (image(0, 2, 16, 8, 8),), grid(0.05, 100, 255)
    norm = Norm(torch.randn(16), torch.randn(16), 4, 1e-5)
    assert torch.equal(
        plain.norm_quantize(x, norm, at, silu=True),
        EAGER.norm_quantize(x, norm, at, silu=True),
    )
    assert torch.equal(plain.quantize(x, at), EAGER.quantize(x, at))


def test_a_tensor_of_another_layout_is_refused(onednn: OnednnKernels) -> None:
    x = torch.randn(2, 16, 8, 8)  # channels first
    with pytest.raises(ValueError, match="strides"):
        onednn.quantize((x,), grid(0.05, 100, 255))

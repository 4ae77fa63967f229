"""Both forms of a convolution, and that the first image chooses between them."""

import pytest
import torch

from tcaq_core.runtime.cpu_conv import WINDOWED, OnednnConv
from tcaq_core.runtime.kernels import Geometry
from tests.tcaq_core.runtime.test_cpu import codes, weights


def conv(geometry: Geometry, width: int = 3) -> OnednnConv:
    return OnednnConv(weights(1, 8, 16, width, width), torch.ones(8), geometry)


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize("first", [6, 40])
def test_both_forms_are_exact_for_images_of_any_size(
    first: int, stride: tuple[int, int], padding: int
) -> None:
    move = Geometry(stride, (padding, padding), (1, 1))
    layer = conv(move)
    for side in (first, 6, 40):
        q = codes(side, 255, 2, 16, side, side)
        out = layer(q, scale=1.0, zero_point=90, bias=None)
        expected = torch.nn.functional.conv2d(
            q.double() - 90, weights(1, 8, 16, 3, 3).double(), None, stride, padding
        )
        assert torch.equal(out.double(), expected)
        assert out.is_contiguous(memory_format=torch.channels_last)


def test_a_small_image_is_multiplied_by_windows_and_a_large_one_directly() -> None:
    move = Geometry((1, 1), (1, 1), (1, 1))
    small, large = conv(move), conv(move)
    side = int(WINDOWED**0.5)
    small(codes(0, 255, 1, 16, side, side), scale=1.0, zero_point=0, bias=None)
    large(codes(0, 255, 1, 16, side + 1, side), scale=1.0, zero_point=0, bias=None)
    assert small._windowed is not None
    assert small._direct is None
    assert large._direct is not None
    assert large._windowed is None
    # The weight is held once.
    assert small._integers is None
    assert large._integers is None


def test_a_dilated_convolution_is_done_directly() -> None:
    layer = conv(Geometry((1, 1), (2, 2), (2, 2)))
    q = codes(0, 255, 1, 16, 6, 6)
    out = layer(q, scale=0.5, zero_point=7, bias=torch.ones(8))
    expected = torch.nn.functional.conv2d(
        q.double() - 7, weights(1, 8, 16, 3, 3).double(), None, 1, 2, 2
    )
    assert torch.allclose(out.double(), expected * 0.5 + 1, rtol=1e-6)
    assert layer._windowed is None


def test_a_point_is_a_product_at_any_size() -> None:
    layer = conv(Geometry((1, 1), (0, 0), (1, 1)), width=1)
    q = codes(0, 255, 2, 16, 40, 40)
    out = layer(q, scale=1.0, zero_point=3, bias=None)
    expected = torch.nn.functional.conv2d(
        q.double() - 3, weights(1, 8, 16, 1, 1).double()
    )
    assert torch.equal(out.double(), expected)
    assert layer._direct is None

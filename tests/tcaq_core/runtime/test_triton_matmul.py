import pytest
import torch

from tcaq_core.runtime.kernels import Geometry

pytest.importorskip("triton")

from tests.tcaq_core.runtime.triton_reference import (
    EAGER,
    TRITON,
    grid_of,
    images,
    product,
    random_codes,
    random_weight,
)


@pytest.mark.parametrize("num_bits", [4, 6, 8])
@pytest.mark.parametrize(
    ("kernel", "geometry"),
    [
        ((3, 3), Geometry((1, 1), (1, 1), (1, 1))),
        ((3, 3), Geometry((2, 2), (1, 1), (1, 1))),
        ((3, 3), Geometry((2, 2), (0, 0), (1, 1))),
        ((1, 1), Geometry((1, 1), (0, 0), (1, 1))),
        ((1, 1), Geometry((2, 2), (0, 0), (1, 1))),
        ((1, 3), Geometry((1, 2), (0, 2), (1, 2))),
    ],
)
def test_a_convolution_is_the_references_to_the_last_bit(
    num_bits: int,
    kernel: tuple[int, int],
    geometry: Geometry,
    generator: torch.Generator,
) -> None:
    codes = random_codes(2, 19, 5, 6, num_bits=num_bits, generator=generator)
    grid = grid_of(0.021, 2**num_bits // 3, num_bits)
    weight = random_weight(21, 19, *kernel, generator=generator)
    scale = torch.rand(21, generator=generator) * 0.01
    layer = (codes, grid, weight, scale)
    shape = product(EAGER, *layer, geometry=geometry).shape
    bias = torch.randn(21, generator=generator)
    addend = images(torch.randn(shape, generator=generator))
    for b, add in ((None, None), (bias, addend)):
        expected, found = (
            product(kernels, *layer, geometry=geometry, bias=b, add=add)
            for kernels in (EAGER, TRITON)
        )
        assert torch.equal(found.cpu(), expected)
        assert found.is_contiguous(memory_format=torch.channels_last)


def test_three_channels_and_many_taps_use_every_edge_of_the_tiles(
    generator: torch.Generator,
) -> None:
    codes = random_codes(1, 3, 9, 7, num_bits=8, generator=generator)
    grid = grid_of(0.5, 255, 8)
    weight = random_weight(17, 3, 3, 3, generator=generator)
    geometry = Geometry((1, 1), (2, 2), (2, 2))
    layer = (codes, grid, weight, torch.ones(17))
    expected = product(EAGER, *layer, geometry=geometry)
    assert expected.abs().max() > 1000
    assert torch.equal(product(TRITON, *layer, geometry=geometry).cpu(), expected)


@pytest.mark.parametrize("num_bits", [4, 8])
@pytest.mark.parametrize(("rows", "channels", "outputs"), [(5, 33, 18), (18, 16, 3)])
def test_a_matrix_product_is_the_references_to_the_last_bit(
    num_bits: int, rows: int, channels: int, outputs: int, generator: torch.Generator
) -> None:
    codes = random_codes(rows, channels, num_bits=num_bits, generator=generator)
    grid = grid_of(0.021, 5, num_bits)
    weight = random_weight(outputs, channels, generator=generator)
    scale = torch.rand(outputs, generator=generator)
    bias = torch.randn(outputs, generator=generator)
    add = torch.randn(rows, outputs, generator=generator)
    layer = (codes, grid, weight, scale)
    expected, found = (
        product(kernels, *layer, geometry=None, bias=bias, add=add)
        for kernels in (EAGER, TRITON)
    )
    assert torch.equal(found.cpu(), expected)

import pytest
import torch

pytest.importorskip("triton")

from tests.tcaq_core.runtime.triton_reference import (
    EAGER,
    TRITON,
    both,
    grid_of,
    images,
    on_device,
)


@pytest.mark.parametrize("num_bits", [4, 6, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_quantizing_gives_the_references_codes(
    num_bits: int, dtype: torch.dtype, generator: torch.Generator
) -> None:
    first = images(torch.randn(2, 19, 5, 6, generator=generator).to(dtype))
    second = images(torch.randn(2, 6, 5, 6, generator=generator).to(dtype))
    grid = grid_of(4 / 2**num_bits, 2**num_bits // 3, num_bits)
    reciprocal = torch.rand(25, generator=generator) + 0.5
    for sources, factor in (
        ((first,), None),
        ((first, second), None),
        ((first, second), reciprocal),
    ):
        expected, found = both("quantize", sources, grid, reciprocal=factor)
        assert torch.equal(found, expected)
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert len(expected.unique()) > 2 ** (num_bits - 1)


def test_ties_go_to_the_even_code_and_ends_are_kept() -> None:
    steps = torch.tensor([-1e30, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 4e6, 1e30])
    x = images((steps * 0.25).view(1, 1, 3, 3))
    expected, found = both("quantize", (x,), grid_of(0.25, 7, 4))
    assert found.flatten().tolist() == [0, 5, 5, 7, 7, 9, 9, 15, 15]
    assert torch.equal(found, expected)


def test_a_product_that_rounds_onto_a_tie_is_a_tie(generator: torch.Generator) -> None:
    # Here x * (1 / scale) is a tie in float32 only: one fused rounding sees none.
    inverse = torch.tensor(0.0217).reciprocal()
    x = torch.rand(2_000_000, generator=generator) * 5
    product = x * inverse
    exact = x.double() * inverse.double()
    tie = (product.frac() == 0.5) & (exact != product.double())
    x = images(x[tie][:128].view(1, -1, 1, 1))
    assert x.shape[1] >= 16
    expected, found = both("quantize", (x,), grid_of(0.0217, 3, 8))
    assert torch.equal(found, expected)


def test_rows_of_a_matrix_are_quantized_like_pixels(generator: torch.Generator) -> None:
    x = torch.randn(7, 21, generator=generator)
    grid = grid_of(0.02, 120, 8)
    reciprocal = torch.rand(21, generator=generator) + 0.5
    as_images = EAGER.quantize(
        (images(x[:, :, None, None]),), grid, reciprocal=reciprocal
    )
    moved = on_device(x)
    found = TRITON.quantize((moved,), on_device(grid), reciprocal=on_device(reciprocal))
    assert found.shape == (7, 21)
    assert torch.equal(found.cpu(), as_images[:, :, 0, 0])

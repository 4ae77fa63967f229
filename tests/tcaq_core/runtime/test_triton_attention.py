import pytest
import torch

from tcaq_core.runtime.kernels import SoftmaxGrid

pytest.importorskip("triton")

from tests.tcaq_core.runtime.triton_reference import (
    both,
    grid_of,
    random_codes,
    softmax_of,
)

# The interpreter is numpy, which warns where a result is meant to be infinite.
pytestmark = pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")


@pytest.mark.parametrize(("heads", "width", "length"), [(2, 12, 21), (1, 40, 16)])
@pytest.mark.parametrize(
    "softmax",
    [
        softmax_of(0.4 / 255, 0.0, 8),
        softmax_of(0.3 / 15, 0.0, 4),
        softmax_of(1.0, 1.0, 4),
        softmax_of(0.9, 0.5, 4),
        softmax_of(0.7, 13 / 37, 6),
    ],
)
def test_attention_agrees_on_uniform_and_logarithmic_maps(
    heads: int,
    width: int,
    length: int,
    softmax: SoftmaxGrid,
    generator: torch.Generator,
) -> None:
    q, k, v = (
        random_codes(2, length, heads * width, num_bits=8, generator=generator)
        for _ in range(3)
    )
    grids = (grid_of(0.02, 100, 8), grid_of(0.03, 140, 8), grid_of(0.01, 7, 8))
    expected, found = both(
        "attention", q, k, v, grids, softmax, heads=heads, scale=width**-0.5
    )
    # An entry of the map within float32 rounding of a tie changes its row.
    close = torch.isclose(found, expected, rtol=1e-5, atol=1e-5)
    assert float(close.double().mean()) >= 0.97
    assert float(expected.abs().mean()) > 0.1

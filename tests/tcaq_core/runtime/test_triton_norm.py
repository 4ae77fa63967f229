from typing import Any

import pytest
import torch

from tcaq_core.runtime.kernels import Norm

pytest.importorskip("triton")

from tests.tcaq_core.runtime.triton_reference import (
    assert_nearest,
    both,
    grid_of,
    images,
    silu,
)


@pytest.mark.parametrize(
    ("channels", "groups", "size"),
    [
        ((24,), 8, (5, 7)),  # groups of three: lanes without a channel
        ((19, 13), 8, (4, 4)),  # the fifth group has channels of both sources
        ((16, 16), 1, (3, 1)),
        ((8,), 8, (1, 1)),
    ],
)
@pytest.mark.parametrize("with_everything", [False, True])
def test_normalizing_gives_the_nearest_codes(
    channels: tuple[int, ...],
    groups: int,
    size: tuple[int, int],
    with_everything: bool,  # noqa: FBT001
    generator: torch.Generator,
) -> None:
    total = sum(channels)
    # Far from zero, where a variance by squares alone would lose its digits.
    sources = tuple(
        images(torch.randn(2, c, *size, generator=generator) * 2 + 30) for c in channels
    )
    weight, bias = torch.randn(2, total, generator=generator).unbind()
    norm = Norm(weight, bias, groups, 1e-5)
    grid = grid_of(0.03, 90, 8)
    options: dict[str, Any] = {}
    exact = torch.cat(sources, dim=1).double()
    if with_everything:
        shift = torch.randn(2, total, generator=generator)
        reciprocal = torch.rand(total, generator=generator) + 0.5
        options = {"shift": shift, "reciprocal": reciprocal, "silu": True}
        exact = exact + shift.double()[:, :, None, None]
    exact = torch.nn.functional.group_norm(
        exact, groups, weight.double(), bias.double(), norm.eps
    )
    if with_everything:
        exact = silu(exact) * reciprocal.double()[:, None, None]
    expected, found = both("norm_quantize", sources, norm, grid, **options)
    if size != (1, 1):  # one number a group is divided by the root of eps alone
        assert_nearest(found, exact, grid)
    assert int((found.int() - expected.int()).abs().max()) <= 1
    assert float((found != expected).double().mean()) <= 0.01
    assert found.is_contiguous(memory_format=torch.channels_last)

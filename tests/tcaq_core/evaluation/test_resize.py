from types import ModuleType

import pytest
import torch

from tcaq_core.evaluation.resize import resize_tf1
from tests.tcaq_core.evaluation.fidelity import import_torch_fidelity

__all__ = ["import_torch_fidelity"]


def pictures(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, height, width, 3), generator=generator).float()


def test_twice_the_size_interpolates_to_the_right_and_repeats_the_edge() -> None:
    row = torch.tensor([0.0, 8.0]).reshape(1, 1, 2, 1).expand(1, 2, 2, 1)
    resized = resize_tf1(row, size=4)
    assert resized[0, :, :, 0].tolist() == [[0.0, 4.0, 8.0, 8.0]] * 4


def test_half_the_size_takes_every_second_pixel_and_averages_nothing() -> None:
    images = pictures(8, 8)
    assert torch.equal(resize_tf1(images, size=4), images[:, ::2, ::2])


@pytest.mark.parametrize(
    ("height", "width"),
    [(32, 32), (17, 64), (1, 1), (256, 256), (299, 299), (512, 400)],
)
def test_it_is_torch_fidelity_s_to_the_last_bit(
    torch_fidelity: ModuleType, height: int, width: int
) -> None:
    images = pictures(height, width)
    theirs = torch_fidelity.interpolate_compat_tensorflow
    expected = theirs.interpolate_bilinear_2d_like_tensorflow1x(
        images.permute(0, 3, 1, 2), size=(299, 299), align_corners=False
    )
    found = resize_tf1(images, size=299)
    assert torch.equal(found.permute(0, 3, 1, 2), expected)
    assert found.is_contiguous()

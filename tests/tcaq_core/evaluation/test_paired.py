import math

import pytest
import torch

from tcaq_core.evaluation.paired import psnr_db, relative_mse


def test_psnr_of_equal_images_is_infinite() -> None:
    images = torch.zeros(2, 3, 4, 4)
    assert math.isinf(psnr_db(images, images))


def test_psnr_follows_its_definition() -> None:
    reference = torch.zeros(1, 3, 4, 4)
    assert psnr_db(reference + 0.2, reference) == pytest.approx(20.0, abs=1e-5)


def test_psnr_is_the_mean_over_images() -> None:
    reference = torch.zeros(2, 3, 4, 4)
    images = reference.clone()
    images[0] += 0.2  # 20 dB
    images[1] += 0.02  # 40 dB
    assert psnr_db(images, reference) == pytest.approx(30.0, abs=1e-4)


def test_relative_mse_is_a_ratio_of_energies() -> None:
    x = torch.full((2, 5), 2.0)
    assert relative_mse(x * 1.1, x) == pytest.approx(0.01, rel=1e-4)

import math

import numpy as np
import pytest
import scipy.signal  # type: ignore[import-untyped]
import torch

from tcaq_core.errors import EvaluationFailed
from tcaq_core.evaluation.paired import (
    feature_distance,
    per_image_psnr_db,
    psnr_db,
    relative_mse,
    ssim,
)


def pictures(
    seed: int = 0, n: int = 3, side: int = 17, channels: int = 3
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (n, side, side + 3, channels)
    return torch.randint(0, 256, shape, generator=generator).to(torch.uint8)


def disturbed(images: torch.Tensor, amplitude: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(9)
    noise = torch.randint(-amplitude, amplitude + 1, images.shape, generator=generator)
    return (images.long() + noise).clamp(0, 255).to(torch.uint8)


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


def test_psnr_of_pixels_is_by_image_with_a_peak_of_255() -> None:
    reference = torch.zeros(3, 4, 4, 1, dtype=torch.uint8)
    images = reference.clone()
    images[0] += 255
    images[1, 0, 0] = 102  # a sixteenth of the pixels, 0.4 of the peak: 0.01
    found = per_image_psnr_db(images, reference)
    assert found.dtype == torch.float64
    assert found[:2].tolist() == pytest.approx([0.0, 20.0], abs=1e-12)
    assert math.isinf(found[2])


def test_psnr_of_pixels_agrees_with_that_of_images() -> None:
    a, b = pictures(), disturbed(pictures(), 20)

    def as_drawn(pixels: torch.Tensor) -> torch.Tensor:
        return (pixels.double() / 127.5 - 1).movedim(3, 1)

    expected = psnr_db(as_drawn(b), as_drawn(a))
    assert float(per_image_psnr_db(b, a).mean()) == pytest.approx(expected, rel=1e-9)


def test_ssim_of_equal_images_is_one() -> None:
    assert ssim(pictures(), pictures()).tolist() == [1.0, 1.0, 1.0]
    black = torch.zeros(1, 11, 11, 1, dtype=torch.uint8)
    assert ssim(black, black).tolist() == [1.0]


def ssim_of_wang(x: np.ndarray, y: np.ndarray) -> float:
    """Follow the authors' ssim_index.m on one channel, with a full 2-D window."""
    row = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = np.outer(row, row)
    window /= window.sum()

    def blur(z: np.ndarray) -> np.ndarray:
        blurred: np.ndarray = scipy.signal.convolve2d(z, window, mode="valid")
        return blurred

    mu1, mu2 = blur(x), blur(y)
    sigma1_sq, sigma2_sq = blur(x * x) - mu1**2, blur(y * y) - mu2**2
    sigma12 = blur(x * y) - mu1 * mu2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    index = ((2 * mu1 * mu2 + c1) * (2 * sigma12 + c2)) / (
        (mu1**2 + mu2**2 + c1) * (sigma1_sq + sigma2_sq + c2)
    )
    return float(index.mean())


@pytest.mark.parametrize(("channels", "side"), [(1, 11), (3, 17)])
def test_ssim_is_its_authors(channels: int, side: int) -> None:
    a = pictures(side=side, channels=channels)
    b = disturbed(a, 60)
    expected = [
        np.mean([ssim_of_wang(*pair) for pair in zip(*planes, strict=True)])
        for planes in zip(
            a.double().movedim(3, 1).numpy(),
            b.double().movedim(3, 1).numpy(),
            strict=True,
        )
    ]
    assert ssim(b, a).tolist() == pytest.approx(expected, rel=1e-10)
    assert torch.equal(ssim(b, a), ssim(a, b))


def test_ssim_of_flat_images_is_their_luminance_term() -> None:
    a = torch.full((1, 12, 12, 3), 100, dtype=torch.uint8)
    b = torch.full((1, 12, 12, 3), 200, dtype=torch.uint8)
    c1 = 2.55**2
    expected = (2 * 100 * 200 + c1) / (100**2 + 200**2 + c1)
    assert ssim(a, b).tolist() == pytest.approx([expected], rel=1e-9)


def test_more_noise_is_less_alike() -> None:
    a = pictures()
    values = [float(ssim(disturbed(a, n), a).mean()) for n in (1, 10, 40, 120)]
    assert values == sorted(values, reverse=True)
    assert 0.99 < values[0] < 1


def test_feature_distance_is_euclidean_by_image() -> None:
    a = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    b = torch.tensor([[3.0, 4.0], [1.0, 1.0]])
    assert feature_distance(a, b).tolist() == [5.0, 0.0]


def test_what_cannot_be_paired_is_refused() -> None:
    a = pictures()
    for compare in (per_image_psnr_db, ssim):
        with pytest.raises(EvaluationFailed, match="one by one"):
            compare(a, pictures(side=18))
        with pytest.raises(EvaluationFailed, match="no images"):
            compare(a[:0], a[:0])
    with pytest.raises(EvaluationFailed, match="10 x 13 are smaller"):
        ssim(pictures(side=10), pictures(side=10))
    with pytest.raises(EvaluationFailed, match="one by one"):
        feature_distance(torch.zeros(2, 3), torch.zeros(1, 3))
    with pytest.raises(EvaluationFailed, match="not finite"):
        feature_distance(torch.tensor([[math.nan]]), torch.tensor([[0.0]]))

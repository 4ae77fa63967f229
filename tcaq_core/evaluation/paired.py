"""Paired metrics: the same noise through two models, compared image by image."""

from typing import Final

import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor
from torch.nn.functional import conv2d

from tcaq_core.errors import EvaluationFailed

Pixels = UInt8[Tensor, "N H W C"]
# Of any shape: another one than the images' is refused with a reason.
OtherPixels = UInt8[Tensor, "_ _ _ _"]

PEAK: Final = 255
# Wang et al., 2004: the window's side and standard deviation in pixels, K1 and K2.
WINDOW: Final = 11
SIGMA: Final = 1.5
K1: Final = 0.01
K2: Final = 0.03


def psnr_db(
    images: Float[Tensor, "N C H W"], reference: Float[Tensor, "N C H W"]
) -> float:
    """Return the peak signal-to-noise ratio in dB, the mean over images.

    Images in [-1, 1], so the peak-to-peak signal is 2. Infinite for equal images.
    """
    error = (images.double() - reference.double()).square().flatten(1).mean(1)
    return float((10 * torch.log10(4 / error)).mean())


def per_image_psnr_db(images: Pixels, reference: OtherPixels) -> Float64[Tensor, "N"]:
    """Return each image's peak signal-to-noise ratio in dB, with a peak of 255.

    Its mean is `psnr_db` of the same images. Infinite where two images are equal.

    Raises:
        EvaluationFailed: images of different shapes.
    """
    _refuse_unlike(images, reference)
    found = []
    for a, b in zip(images, reference, strict=True):
        error = (a.double() - b.double()).square().mean()
        found.append(10 * torch.log10(PEAK**2 / error))
    return torch.stack(found)


def ssim(images: Pixels, reference: OtherPixels) -> Float64[Tensor, "N"]:
    """Return each image's structural similarity, at most 1 (Wang et al., 2004).

    Equation 13 with the paper's settings: a Gaussian window of 11 x 11 and sigma 1.5
    that lies within the image, K1 = 0.01, K2 = 0.03, L = 255, moments divided by the
    window's sum (not n - 1); the mean over positions. Each colour channel is compared
    on its own, and the mean is over them, too.

    Raises:
        EvaluationFailed: images of different shapes, or smaller than the window.
    """
    _refuse_unlike(images, reference)
    height, width = images.shape[1:3]
    if min(height, width) < WINDOW:
        raise EvaluationFailed(
            f"Images of {height} x {width} are smaller than SSIM's window of "
            f"{WINDOW} x {WINDOW}.",
            hint="Leave ssim out of the metrics; psnr_db takes images of any size.",
        )
    return torch.stack(
        [_image_ssim(a, b) for a, b in zip(images, reference, strict=True)]
    )


def feature_distance(
    features: Float[Tensor, "N F"], reference: Float[Tensor, "_ _"]
) -> Float64[Tensor, "N"]:
    """Return the Euclidean distance of each image's features, as they are.

    Nothing is normalised, so it is comparable within one extractor only.

    Raises:
        EvaluationFailed: features of different shapes, or not finite.
    """
    _refuse_unlike(features, reference)
    distance = (features.double() - reference.double()).square().sum(1).sqrt()
    if not bool(distance.isfinite().all()):
        raise EvaluationFailed(
            "A feature is not finite.",
            hint="Look at the images: a model whose images are NaN has no score.",
        )
    return distance


def relative_mse(x_hat: Float[Tensor, "N *S"], x: Float[Tensor, "N *S"]) -> float:
    """Return |x_hat - x|^2 / |x|^2 over the whole tensor."""
    error = (x_hat.double() - x.double()).square().sum()
    return float(error / x.double().square().sum())


def _image_ssim(
    image: UInt8[Tensor, "H W C"], reference: UInt8[Tensor, "H W C"]
) -> Float64[Tensor, ""]:
    x, y = (pixels.double().movedim(2, 0) for pixels in (image, reference))
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = (
        _blurred(z) for z in (x, y, x * x, y * y, x * y)
    )
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    luminance = mean_x.square() + mean_y.square()
    contrast = (mean_xx - mean_x.square()) + (mean_yy - mean_y.square())
    covariance = mean_xy - mean_x * mean_y
    above = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (above / ((luminance + c1) * (contrast + c2))).mean()


def _blurred(x: Float64[Tensor, "C H W"]) -> Float64[Tensor, "C V U"]:
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = torch.exp(-offsets.square() / (2 * SIGMA**2))
    weights /= weights.sum()
    # The window is a product of two rows: 22 multiplications a pixel, not 121.
    rows = conv2d(x[:, None], weights.view(1, 1, 1, -1))
    return conv2d(rows, weights.view(1, 1, -1, 1))[:, 0]


def _refuse_unlike(a: Tensor, b: Tensor) -> None:
    if len(a) == 0:
        raise EvaluationFailed(
            "There are no images to compare.", hint="Compare at least two images."
        )
    if a.shape != b.shape:
        raise EvaluationFailed(
            f"Images of shape {tuple(a.shape)} cannot be compared one by one with "
            f"images of shape {tuple(b.shape)}.",
            hint="Draw both from the same seeds, in the same size.",
        )

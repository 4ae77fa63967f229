"""Paired metrics: the same noise through two models, compared image by image."""

import torch
from jaxtyping import Float
from torch import Tensor


def psnr_db(
    images: Float[Tensor, "N C H W"], reference: Float[Tensor, "N C H W"]
) -> float:
    """Return the peak signal-to-noise ratio in dB, the mean over images.

    Images in [-1, 1], so the peak-to-peak signal is 2. Infinite for equal images.
    """
    error = (images.double() - reference.double()).square().flatten(1).mean(1)
    return float((10 * torch.log10(4 / error)).mean())


def relative_mse(x_hat: Float[Tensor, "N *S"], x: Float[Tensor, "N *S"]) -> float:
    """Return |x_hat - x|^2 / |x|^2 over the whole tensor."""
    error = (x_hat.double() - x.double()).square().sum()
    return float(error / x.double().square().sum())

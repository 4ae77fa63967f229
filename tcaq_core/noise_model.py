"""Linear models of what quantization does to the predicted noise, at one step.

Each fit gives the row of a correction eps <- (eps_hat - bias) * gain; float64 in,
float32 tables out.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Row:
    """The correction of one sampler step."""

    gain: Float[Tensor, "C"]
    bias: Float[Tensor, "C"]
    residual_std: float = 0.0


def fit_ptqd(eps_hat: Float[Tensor, "N C H W"], eps: Float[Tensor, "N C H W"]) -> Row:
    """Return PTQD's correction: k over all elements, bias per channel (section 3.2)."""
    delta = eps_hat - eps
    centred = eps - eps.mean()
    variance = centred.square().sum()
    k = max(0.0, float((delta * centred).sum() / variance)) if variance > 0 else 0.0
    gain = 1 / (1 + k)
    bias = delta.mean(dim=(0, 2, 3)).float()
    return Row(torch.full_like(bias, gain), bias, residual_std(eps_hat, eps, gain=gain))


def fit_tac(
    eps_hat: Float[Tensor, "N C H W"],
    eps: Float[Tensor, "N C H W"],
    *,
    share: float,
    ridge: float,
) -> Row:
    """Return TAC's factor per channel, the mean of every sample's own."""
    count = eps[0].numel()
    floor = eps.square().mean(dim=(2, 3), keepdim=True)
    inverse = eps.square().maximum(floor).clamp(min=1e-12).reciprocal()
    weight = (1 - share) + share * count * inverse
    above = (weight * eps_hat * eps).sum(dim=(2, 3)) + ridge * count
    below = (weight * eps_hat.square()).sum(dim=(2, 3)) + ridge * count
    factor = torch.where(below > 0, above / below, torch.ones_like(above))
    gain = factor.mean(dim=0).float()
    return Row(gain, torch.zeros_like(gain))


def fit_affine(eps_hat: Float[Tensor, "N C H W"], eps: Float[Tensor, "N C H W"]) -> Row:
    """Return the gain and the biases per channel with the smallest squared error."""
    mean_hat, mean = eps_hat.mean(dim=(0, 2, 3)), eps.mean(dim=(0, 2, 3))
    centred_hat = eps_hat - mean_hat[:, None, None]
    variance = centred_hat.square().sum()
    gain = float((centred_hat * eps).sum() / variance) if variance > 0 else 1.0
    # A prediction that runs against the noise is not mended by turning it around.
    gain = gain if gain > 0 else 1.0
    bias = (mean_hat - mean / gain).float()
    return Row(torch.full_like(bias, gain), bias)


def residual_std(
    eps_hat: Float[Tensor, "N C H W"], eps: Float[Tensor, "N C H W"], *, gain: float
) -> float:
    """Return PTQD's sigma_q / (1 + k): a sample's own deviation, averaged."""
    return float((eps_hat * gain - eps).flatten(1).std(dim=1, correction=0).mean())

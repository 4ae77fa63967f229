"""The equations, as functions on tensors; no class, no state, no mutation.

One definition of a code holds everywhere (simulated, integer, exported):

    q = clamp(round(x * (1 / scale)) + zero_point, 0, 2^num_bits - 1),
    x_hat = (q - zero_point) * scale,

with round half to even and ``1 / scale`` taken in float32 first. That is what
torch's fused kernel computes, so a fused execution agrees to the last bit.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

# AdaRound's stretch of the sigmoid (2004.10568): it reaches exactly 0 and 1.
GAMMA, ZETA = -0.1, 1.1


@dataclass(frozen=True)
class AffineParams:
    """A uniform grid: Q entries, one per tensor or one per channel."""

    scale: Float[Tensor, "*Q"]
    zero_point: Float[Tensor, "*Q"]


def affine_params(
    low: Float[Tensor, "*Q"], high: Float[Tensor, "*Q"], *, num_bits: int
) -> AffineParams:
    """Return the asymmetric grid that covers [low, high] and contains zero exactly."""
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    top = 2**num_bits - 1
    scale = ((high - low) / top).clamp(min=torch.finfo(torch.float32).tiny * 2**24)
    zero_point = torch.round(-low / scale).clamp(0, top)
    return AffineParams(scale, zero_point)


def symmetric_params(
    low: Float[Tensor, "*Q"], high: Float[Tensor, "*Q"], *, num_bits: int
) -> AffineParams:
    """Return the grid centred on code 2^(num_bits-1) that covers [low, high]."""
    half = 2 ** (num_bits - 1)
    scale = torch.maximum(-low / half, high / (half - 1))
    scale = scale.clamp(min=torch.finfo(torch.float32).tiny * 2**24)
    return AffineParams(scale, torch.full_like(scale, half))


def weight_params(
    low: Float[Tensor, "*Q"], high: Float[Tensor, "*Q"], *, num_bits: int
) -> AffineParams:
    """Return a weight grid whose ``code - zero_point`` always fits in int8.

    Below 8 bits any zero point does; at 8 bits only the symmetric one (ADR 10).
    """
    params = symmetric_params if num_bits == 8 else affine_params
    return params(low, high, num_bits=num_bits)


def quantize(
    x: Float[Tensor, "*S"], params: AffineParams, *, num_bits: int
) -> Float[Tensor, "*S"]:
    """Return the codes of x as floats; `params` broadcast against x."""
    codes = torch.round(x * params.scale.reciprocal()) + params.zero_point
    return codes.clamp(0, 2**num_bits - 1)


def dequantize(
    codes: Float[Tensor, "*S"] | UInt8[Tensor, "*S"], params: AffineParams
) -> Float[Tensor, "*S"]:
    """Return the numbers that codes stand for."""
    return (codes - params.zero_point) * params.scale


def fake_quantize(
    x: Float[Tensor, "*S"], params: AffineParams, *, num_bits: int
) -> Float[Tensor, "*S"]:
    """Quantize and dequantize; params broadcast against x."""
    return dequantize(quantize(x, params, num_bits=num_bits), params)


def fake_quantize_tensor(
    x: Float[Tensor, "*S"],
    scale: Float[Tensor, ""],
    zero_point: Float[Tensor, ""],
    *,
    num_bits: int,
) -> Float[Tensor, "*S"]:
    """Return `fake_quantize` for one grid per tensor, fused, straight-through."""
    return torch.fake_quantize_per_tensor_affine(
        x, scale, zero_point.to(torch.int32), 0, 2**num_bits - 1
    )


def fake_quantize_samples(
    x: Float[Tensor, "N *S"],
    scale: Float[Tensor, "N"],
    zero_point: Float[Tensor, "N"],
    *,
    num_bits: int,
) -> Float[Tensor, "N *S"]:
    """Return `fake_quantize` for one grid per sample, fused, straight-through."""
    return torch.fake_quantize_per_channel_affine(
        x, scale, zero_point.to(torch.int32), 0, 0, 2**num_bits - 1
    )


def fake_quantize_learnable(
    x: Float[Tensor, "N *S"],
    scale: Float[Tensor, "*Q"],
    zero_point: Float[Tensor, "*Q"],
    *,
    num_bits: int,
) -> Float[Tensor, "N *S"]:
    """Return the same numbers, with LSQ's gradient for the scale (1902.08153).

    One scale for the tensor or, with Q = N, one for every sample.
    """
    top = 2**num_bits - 1
    if scale.ndim == 0:
        x_hat: Tensor = torch._fake_quantize_learnable_per_tensor_affine(  # noqa: SLF001
            x, scale.reshape(1), zero_point.reshape(1), 0, top, 1.0
        )
        return x_hat
    return torch._fake_quantize_learnable_per_channel_affine(  # noqa: SLF001
        x, scale, zero_point, 0, 0, top, 1.0
    )


def fake_quantize_log(
    x: Float[Tensor, "*S"],
    scale: Float[Tensor, "*Q"],
    *,
    log_step: float,
    num_bits: int,
) -> Float[Tensor, "*S"]:
    """Round x / scale in [0, 1] to powers of 2^log_step; below the last code: zero.

    log_step 1 is RepQ-ViT's log2 quantizer, 1/2 its log-root-2, k/37 AdaLog's
    (2407.12951), with AdaLog's flush to zero: q = round(-log2(x / scale) / log_step),
    x_hat = scale * 2^(-q log_step), and 0 where q >= 2^num_bits.
    """
    exponent = -torch.log2(x * scale.reciprocal())
    code = torch.round(exponent * (1 / log_step)).clamp(min=0)
    value = scale * torch.exp2(-code * log_step)
    return torch.where(code < 2**num_bits, value, torch.zeros_like(value))


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: object,  # noqa: ARG004  (autograd's signature)
        x: Tensor,  # noqa: ARG004
        x_hat: Tensor,
    ) -> Tensor:
        return x_hat

    @staticmethod
    def backward(ctx: object, *grad: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return grad[0], None


def straight_through(
    x: Float[Tensor, "*S"], x_hat: Float[Tensor, "*S"]
) -> Float[Tensor, "*S"]:
    """Return x_hat to the last bit, with the gradient of x."""
    result: Tensor = _StraightThrough.apply(x, x_hat)  # type: ignore[no-untyped-call]
    return result


def lp_loss(
    x_hat: Float[Tensor, "*S"], x: Float[Tensor, "*S"], *, power: float, dim: int
) -> Float[Tensor, "..."]:
    """Return the mean of |x_hat - x|^power over one dimension."""
    return (x_hat - x).abs().pow(power).mean(dim)


def balance(
    channel_range: Float[Tensor, "T C"],
    *,
    target: Literal["min", "percentile", "mean"],
) -> Float[Tensor, "C"]:
    """Return how much wider each channel is than the target, over timestep groups.

    TCAQ-DM equations 4 and 5: r^t_j = s^t_j / s^t_tar, and r_j is the mean of r^t_j
    over t weighted by s^t_j itself, so groups with wide activations count more.
    """
    floor = torch.finfo(channel_range.dtype).tiny * 2**24
    match target:
        case "min":
            goal = channel_range.amin(dim=1)
        case "percentile":
            goal = torch.quantile(channel_range, 0.05, dim=1)
        case "mean":
            goal = channel_range.mean(dim=1)
    # A dead channel as target would push all others below what a grid can hold.
    widest = channel_range.amax(dim=1)
    ratio = channel_range / goal.maximum(1e-4 * widest).clamp(min=floor)[:, None]
    weight = channel_range.clamp(min=floor)
    return (weight * ratio).sum(dim=0) / weight.sum(dim=0)


def rectified_sigmoid(v: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Return AdaRound's h(V) in [0, 1] (2004.10568, equation 23)."""
    return (torch.sigmoid(v) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def inverse_rectified_sigmoid(h: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Return V with h(V) = h, for h in (0, 1)."""
    return -torch.log((ZETA - GAMMA) / (h - GAMMA) - 1)


def rounding_regularizer(h: Float[Tensor, "*S"], *, beta: float) -> Float[Tensor, ""]:
    """Return sum(1 - |2h - 1|^beta): zero once every rounding is decided."""
    return (1 - (2 * h - 1).abs().pow(beta)).sum()


def power_law_log_likelihood_ratio(x: Float[Tensor, "M"]) -> float:
    """Return the log-likelihood ratio of a power law against an exponential.

    Clauset, Shalizi and Newman, "Power-law distributions in empirical data", both
    fitted by maximum likelihood above the smallest value; positive favours the power
    law (TCAQ-DM then takes the log2 quantizer). Returns 0 for fewer than two values.
    """
    kept = x.double()[x > 1e-8]
    if kept.numel() < 2:
        return 0.0
    low = kept.min()
    log_ratio = torch.log(kept / low)
    excess = kept - low
    if float(log_ratio.sum()) == 0.0:
        return 0.0
    alpha = 1 + kept.numel() / log_ratio.sum()
    rate = excess.mean().reciprocal()
    power_law = torch.log((alpha - 1) / low) - alpha * log_ratio
    exponential = torch.log(rate) - rate * excess
    return float((power_law - exponential).sum())

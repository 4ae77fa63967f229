"""Closed-form rounding of one layer from the moments of its inputs.

OPTQ (2210.17323) with its least-squares companion: given samples x_hat of a layer's
quantized input and y of what the layer should answer, the continuous weight that
answers best is W + (E[y x_hat^T] - W H) (H + damping)^-1 with H = E[x_hat x_hat^T];
rounding its columns one after another, each column's error is carried over to the
columns that are still open through the Cholesky factor of H^-1.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tcaq_core.functional import AffineParams

# Columns whose errors are carried over together: OPTQ's lazy batches.
COLUMNS_PER_BATCH = 128


@dataclass(frozen=True)
class Moments:
    """First and second moments of a layer's input and wanted output, centred."""

    hessian: Float[Tensor, "I I"]
    """Covariance of the quantized input."""
    cross: Float[Tensor, "D I"]
    """Covariance of the wanted output with the quantized input."""
    input_mean: Float[Tensor, "I"]
    output_mean: Float[Tensor, "D"]


@dataclass(frozen=True)
class Rounded:
    """The result for one layer."""

    codes: UInt8[Tensor, "D I"]
    target: Float[Tensor, "D I"]
    """Each weight as it stood when its rounding was decided."""


def moments(x_hat: Float[Tensor, "M I"], y: Float[Tensor, "M D"]) -> Moments:
    """Return the centred moments of M samples."""
    input_mean, output_mean = x_hat.mean(0), y.mean(0)
    x_c, y_c = x_hat - input_mean, y - output_mean
    count = x_hat.shape[0]
    return Moments(
        (x_c.T @ x_c) / count, (y_c.T @ x_c) / count, input_mean, output_mean
    )


def damped(hessian: Float[Tensor, "I I"], damping: float) -> Float[Tensor, "I I"]:
    """Return H plus a fraction of its mean diagonal; dead inputs get a one."""
    mean = hessian.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny * 2**24)
    return hessian + torch.eye(len(hessian), device=hessian.device) * (damping * mean)


def refit(
    weight: Float[Tensor, "D I"], found: Moments, *, damping: float
) -> Float[Tensor, "D I"]:
    """Return the continuous weight that answers best, pulled towards `weight`."""
    residual = found.cross - weight @ found.hessian
    factor = torch.linalg.cholesky(damped(found.hessian, damping))
    return weight + torch.cholesky_solve(residual.T, factor).T


def round_columns(
    weight: Float[Tensor, "D I"],
    params: AffineParams,
    hessian: Float[Tensor, "I I"],
    *,
    damping: float,
    num_bits: int,
) -> Rounded:
    """Round a weight, carrying each column's error over to those still open.

    `params` broadcast against the weight. Columns with the largest second moment go
    first, while there is most room to make up for their errors.
    """
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
    inverse = torch.cholesky_inverse(
        torch.linalg.cholesky(damped(hessian, damping)[order][:, order])
    )
    upper = torch.linalg.cholesky(inverse, upper=True)
    open_weight = weight[:, order].clone()
    scale = params.scale.expand_as(weight)[:, order]
    zero_point = params.zero_point.expand_as(weight)[:, order]
    codes, target = torch.empty_like(open_weight), torch.empty_like(open_weight)
    for start in range(0, weight.shape[1], COLUMNS_PER_BATCH):
        stop = min(start + COLUMNS_PER_BATCH, weight.shape[1])
        errors = torch.empty_like(open_weight[:, start:stop])
        for column in range(start, stop):
            w = open_weight[:, column]
            s, z = scale[:, column], zero_point[:, column]
            q = (torch.round(w * s.reciprocal()) + z).clamp(0, 2**num_bits - 1)
            codes[:, column], target[:, column] = q, w
            error = (w - (q - z) * s) / upper[column, column]
            open_weight[:, column:stop] -= torch.outer(
                error, upper[column, column:stop]
            )
            errors[:, column - start] = error
        open_weight[:, stop:] -= errors @ upper[start:stop, stop:]
    back = torch.argsort(order)
    return Rounded(codes[:, back].to(torch.uint8), target[:, back])

"""Frechet distance of two Gaussians (FID: Heusel et al., 1706.08500, equation 6).

    d^2 = |m_a - m_b|^2 + tr(A) + tr(B) - 2 tr((A^1/2 B A^1/2)^1/2)

With A = L L^T, the last term's eigenvalues are those of L^T B L: real and not negative,
however singular A and B are. So nothing is added to a diagonal, which would move the
distance; the usual route through the square root of the product A B, which is not
symmetric, needs that.
"""

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float64
from torch import Tensor

from tcaq_core.errors import EvaluationFailed
from tcaq_core.evaluation.moments import FeatureMoments

NEGATIVE: Final = 1e-9
"""An eigenvalue below minus this, relative to the largest, is no rounding error."""


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean and covariance of the features of `n` images."""

    mean: Float64[Tensor, "F"]
    covariance: Float64[Tensor, "F F"]
    n: int

    @classmethod
    def of(cls, moments: FeatureMoments) -> "Gaussian":
        """Return the Gaussian with these moments."""
        return cls(moments.mean, moments.covariance, moments.n)


@dataclass(frozen=True, eq=False)
class ReferenceRoot:
    """A Gaussian with a factor of its covariance: what all distances to it share."""

    gaussian: Gaussian
    factor: Float64[Tensor, "F R"]
    """L of L L^T = covariance; R is its rank."""

    @classmethod
    def of(cls, gaussian: Gaussian) -> "ReferenceRoot":
        """Return the factor through a symmetric eigendecomposition.

        Eigenvalues below F eps times the largest are rounding errors of zero, and are
        left out.

        Raises:
            EvaluationFailed: too few images, or a matrix that is no covariance.
        """
        _refuse_not_finite(gaussian)
        _refuse_too_few(gaussian)
        values, vectors = torch.linalg.eigh(gaussian.covariance)
        _refuse_negative(values)
        rounding = len(values) * torch.finfo(values.dtype).eps * values[-1]
        kept = values > rounding
        return cls(gaussian, vectors[:, kept] * values[kept].sqrt())

    def distance(self, other: Gaussian) -> float:
        """Return the squared Frechet distance, at least 0.

        Costs one ``eigvalsh``. The rounding error is about 1e-14 of the traces, with
        near-singular covariances, too. Only where the other covariance is singular and
        the reference's is not, the zeros' rounding errors count with their square
        roots: about 1e-8 of the traces. What comes out below zero is returned as 0.

        Raises:
            EvaluationFailed: too few images (n <= F), features of another width, or a
                matrix that is no covariance.
        """
        _refuse_not_finite(other)
        _refuse_too_few(other)
        _refuse_other_width(self.gaussian, other)
        # The factor's columns ascend in length, so this matrix is graded. Reduced from
        # its large end, UPLO "U", its small eigenvalues keep their digits; from the
        # other end their roots would be off by 1e-8 of the largest one.
        inner = self.factor.T @ other.covariance @ self.factor
        values = torch.linalg.eigvalsh((inner + inner.T) / 2, UPLO="U")
        _refuse_negative(values)
        cross = values.clamp(min=0).sqrt().sum()
        traces = self.gaussian.covariance.trace() + other.covariance.trace()
        gap = (self.gaussian.mean - other.mean).square().sum()
        return max(float(gap + traces - 2 * cross), 0.0)


def frechet_distance(generated: Gaussian, reference: Gaussian) -> float:
    """Return the squared Frechet distance of two Gaussians: FID on Inception features.

    Raises:
        EvaluationFailed: too few images (n <= F) on either side, features of different
            widths, or a matrix that is no covariance.
    """
    return ReferenceRoot.of(reference).distance(generated)


def _refuse_not_finite(gaussian: Gaussian) -> None:
    statistics = gaussian.mean, gaussian.covariance
    if not all(bool(values.isfinite().all()) for values in statistics):
        raise EvaluationFailed(
            "A mean or a covariance has values that are NaN or infinite.",
            hint="Compute the statistics again, from features that are finite.",
        )


def _refuse_too_few(gaussian: Gaussian) -> None:
    num_features = len(gaussian.mean)
    if gaussian.n <= num_features:
        raise EvaluationFailed(
            f"{gaussian.n} images are too few for a Frechet distance over "
            f"{num_features} features: at least {num_features + 1} are needed for a "
            "covariance of full rank.",
            hint=f"Score at least {num_features + 1} images, or use an extractor with "
            "fewer features.",
        )


def _refuse_other_width(reference: Gaussian, other: Gaussian) -> None:
    if len(reference.mean) != len(other.mean):
        raise EvaluationFailed(
            f"The images have {len(other.mean)} features each, the reference "
            f"{len(reference.mean)}.",
            hint="Make both with the same extractor and layer.",
        )


def _refuse_negative(values: Float64[Tensor, "R"]) -> None:
    if len(values) == 0:
        return
    if float(values[0]) < -NEGATIVE * abs(float(values[-1])):
        raise EvaluationFailed(
            "A covariance has a negative variance "
            f"({float(values[0]):.3g}, the largest is {float(values[-1]):.3g}).",
            hint="Compute the statistics again: a covariance is positive semidefinite.",
        )

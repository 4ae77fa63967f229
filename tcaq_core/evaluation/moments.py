"""Moments of features, float64: all that a Frechet distance needs to know of images.

Images come in shards. A shard's moments are sums, so those of many shards are their sum
in the shards' order: the same bits whoever computed which shard.
"""

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from tcaq_core.errors import EvaluationFailed

FeatureRows = Float32[Tensor, "N F"] | Float64[Tensor, "N F"]


@dataclass(frozen=True, eq=False)
class FeatureMoments:
    """How many features there are, and sums over them of x and x x^T.

    x is a feature less `origin`. A covariance from sums loses digits as (mean / std)^2:
    none to speak of for an Inception's features (mean about std), half of float64's
    sixteen where the mean is 10^4 std. An origin near the mean, such as the
    reference's, gives them back; it must be the same for all that are added.
    """

    n: int
    sum: Float64[Tensor, "F"]
    outer: Float64[Tensor, "F F"]
    origin: Float64[Tensor, "F"]

    @classmethod
    def of(
        cls, features: FeatureRows, *, origin: Float64[Tensor, "F"] | None = None
    ) -> "FeatureMoments":
        """Return the moments of features (N, F) about `origin`; by default, zero.

        Raises:
            EvaluationFailed: a feature is NaN or infinite.
        """
        refuse_not_finite(features)
        if origin is None:
            origin = torch.zeros(features.shape[1], dtype=torch.float64)
        x = features.double() - origin
        return cls(len(x), x.sum(0), x.T @ x, origin)

    def __add__(self, other: "FeatureMoments") -> "FeatureMoments":
        self._refuse_unlike(other)
        n = self.n + other.n
        total, outer = self.sum + other.sum, self.outer + other.outer
        return FeatureMoments(n, total, outer, self.origin)

    def __sub__(self, other: "FeatureMoments") -> "FeatureMoments":
        """Leave out features that are among these."""
        self._refuse_unlike(other)
        n = self.n - other.n
        total, outer = self.sum - other.sum, self.outer - other.outer
        return FeatureMoments(n, total, outer, self.origin)

    @property
    def mean(self) -> Float64[Tensor, "F"]:
        """The mean feature.

        Raises:
            EvaluationFailed: of no features at all.
        """
        self._refuse_fewer_than(1)
        return self.origin + self.sum / self.n

    @property
    def covariance(self) -> Float64[Tensor, "F F"]:
        """The covariance, divided by n - 1 as ``numpy.cov``'s; exactly symmetric.

        Raises:
            EvaluationFailed: of fewer than two features.
        """
        self._refuse_fewer_than(2)
        centred = self.outer - torch.outer(self.sum, self.sum) / self.n
        return (centred + centred.T) / (2 * (self.n - 1))

    def _refuse_unlike(self, other: "FeatureMoments") -> None:
        if not torch.equal(self.origin, other.origin):
            raise EvaluationFailed(
                "Moments about different origins, or of features of different widths, "
                "cannot be merged.",
                hint="Compute all of them with one extractor, about one origin.",
            )

    def _refuse_fewer_than(self, num_features: int) -> None:
        if self.n < num_features:
            raise EvaluationFailed(
                f"{self.n} images have no mean and covariance.",
                hint="Score at least two images.",
            )


def merge_moments(shards: Iterable[FeatureMoments]) -> FeatureMoments:
    """Return the moments of all shards: their sum, one after the other in order.

    Raises:
        EvaluationFailed: there are none, or they do not fit together.
    """
    found = iter(shards)
    first = next(found, None)
    if first is None:
        raise EvaluationFailed(
            "There are no moments to merge.", hint="Score at least two images."
        )
    return reduce(operator.add, found, first)


def refuse_not_finite(values: Float[Tensor, "N F"]) -> None:
    """Refuse features of which one is not a number.

    Raises:
        EvaluationFailed: a value is NaN or infinite.
    """
    bad = int((~values.isfinite().all(dim=1)).sum())
    if bad > 0:
        raise EvaluationFailed(
            f"The features of {bad} of {len(values)} images are NaN or infinite.",
            hint="Look at the images: a model whose images are NaN has no score.",
        )

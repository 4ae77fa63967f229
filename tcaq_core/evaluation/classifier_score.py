"""Classifier score (Inception score: Salimans et al., 1606.03498, section 4).

    exp(E_x KL(p(y|x) || p(y)))

The images are cut into splits; each has its own marginal p(y) and its own score. A
split's score needs sums over its images alone, so shards of images are added up.
"""

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Final

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from tcaq_core.errors import EvaluationFailed
from tcaq_core.evaluation.moments import refuse_not_finite

NUM_SPLITS: Final = 10


@dataclass(frozen=True)
class ClassifierScore:
    """Mean and standard deviation (ddof 0) over splits of the images."""

    mean: float
    std: float
    splits: tuple[float, ...]
    """Each split's score, in the images' order: independent but for the network."""


@dataclass(frozen=True, eq=False)
class ClassifierSums:
    """Sums over the images of each split, float64."""

    n: Int64[Tensor, "S"]
    probabilities: Float64[Tensor, "S K"]
    """Sum of p(y|x)."""
    negative_entropy: Float64[Tensor, "S"]
    """Sum of p(y|x) log p(y|x)."""

    @classmethod
    def of(
        cls,
        logits: Float[Tensor, "N K"],
        *,
        first: int,
        num_images: int,
        num_splits: int = NUM_SPLITS,
    ) -> "ClassifierSums":
        """Return the sums of images `first`, `first` + 1 ... of `num_images` in all.

        Split s has the images from s num_images // num_splits on, as in the original.

        Raises:
            EvaluationFailed: fewer images than splits, more than `num_images`, or
                logits that are not finite.
        """
        _refuse_fewer_images(num_images, num_splits)
        _refuse_beyond(first + len(logits), num_images)
        refuse_not_finite(logits)
        log_p = logits.double().log_softmax(dim=1)
        p = log_p.exp()
        starts = [s * num_images // num_splits for s in range(1, num_splits)]
        image = torch.arange(first, first + len(logits))
        split = torch.bucketize(
            image, torch.tensor(starts, dtype=torch.long), right=True
        )
        # A product with ones and zeros: index_add's order is not promised.
        member = torch.nn.functional.one_hot(split, num_splits).T
        entropies = (p * log_p).sum(1)
        return cls(member.sum(1), member.double() @ p, member.double() @ entropies)

    def __add__(self, other: "ClassifierSums") -> "ClassifierSums":
        if self.probabilities.shape != other.probabilities.shape:
            raise EvaluationFailed(
                "Sums over different classes or splits cannot be merged.",
                hint="Compute all of them with one extractor and one number of splits.",
            )
        return ClassifierSums(
            self.n + other.n,
            self.probabilities + other.probabilities,
            self.negative_entropy + other.negative_entropy,
        )

    def score(self) -> ClassifierScore:
        """Return the mean score of the splits.

        Raises:
            EvaluationFailed: a split has images missing.
        """
        fewest, most = int(self.n.min()), int(self.n.max())
        if fewest == 0 or most - fewest > 1:
            raise EvaluationFailed(
                f"Splits have from {fewest} to {most} images: some are missing.",
                hint="Merge the sums of all images, each once.",
            )
        marginal = self.probabilities / self.n[:, None]
        gain = self.negative_entropy / self.n + torch.special.entr(marginal).sum(1)
        scores = gain.exp()
        return ClassifierScore(
            float(scores.mean()),
            float(scores.std(correction=0)),
            tuple(scores.tolist()),
        )


def merge_sums(shards: Iterable[ClassifierSums]) -> ClassifierSums:
    """Return the sums over all shards, one after the other in order.

    Raises:
        EvaluationFailed: there are none, or they do not fit together.
    """
    found = iter(shards)
    first = next(found, None)
    if first is None:
        raise EvaluationFailed(
            "There are no sums to merge.",
            hint="Score at least as many images as splits.",
        )
    return reduce(operator.add, found, first)


def _refuse_fewer_images(num_images: int, num_splits: int) -> None:
    if num_images < num_splits:
        raise EvaluationFailed(
            f"{num_images} images cannot be cut into {num_splits} splits.",
            hint=f"Score at least {num_splits} images.",
        )


def _refuse_beyond(end: int, num_images: int) -> None:
    if end > num_images:
        raise EvaluationFailed(
            f"A shard ends at image {end} of {num_images}.",
            hint="Give the number of all images, and the shard's first of them.",
        )

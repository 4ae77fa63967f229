"""Confidence intervals of scores: delete-a-group jackknife, and means over images.

What they cover is the sampling of the images: with other seeds, the same model's score
would lie about there. What they do not: the bias of a Frechet distance at n images
(scores are comparable at equal n only), the sampling of the reference, the network.
"""

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from typing import Final, Protocol, TypeVar, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from tcaq_core.errors import EvaluationFailed
from tcaq_core.evaluation.record import Interval

MAX_GROUPS: Final = 20
COVERAGE: Final = 0.95

T = TypeVar("T")


@runtime_checkable
class Sums(Protocol):
    """What a score is computed from; others' can be added, a part's taken away."""

    @property
    def n(self) -> int:
        """How many images they are over."""
        ...

    # beartype does not take typing.Self in a protocol.
    def __add__(self: T, other: T, /) -> T: ...  # noqa: PYI019 - see above

    def __sub__(self: T, other: T, /) -> T: ...  # noqa: PYI019 - see above


S = TypeVar("S", bound=Sums)


@dataclass(frozen=True)
class Replicates:
    """A score of all images, and of all but each group of them."""

    value: float
    without: tuple[float, ...]
    sizes: tuple[int, ...]
    """Images in each group."""


def consecutive_groups(
    num_items: int, *, max_groups: int = MAX_GROUPS
) -> tuple[range, ...]:
    """Return at most `max_groups` runs of images or shards, their sizes one apart.

    Raises:
        EvaluationFailed: there is nothing to group.
    """
    num_groups = min(num_items, max_groups)
    if num_groups < 1:
        raise EvaluationFailed(
            "There are no images to group.", hint="Score at least two images."
        )
    edges = [g * num_items // num_groups for g in range(num_groups + 1)]
    return tuple(map(range, edges[:-1], edges[1:]))


def leave_one_out(
    groups: Sequence[S],
    score: Callable[[S], float],
    *,
    tick: Callable[[], None] = lambda: None,
) -> Replicates:
    """Return the score of all groups together, and without each.

    The groups are read twice, in order, and not kept: a sequence that reads them from
    files needs room for three at a time. `tick` is called before each score; what it
    raises ends the computation.

    Raises:
        EvaluationFailed: fewer than two groups, a score that is not finite, or what
            `score` refuses, such as too few images without a group.
    """
    if len(groups) < 2:
        raise EvaluationFailed(
            f"An interval needs two groups of images; there are {len(groups)}.",
            hint="Score more images, or in smaller shards.",
        )
    total = reduce(operator.add, groups)
    value = score(total)
    without, sizes = [], []
    for group in groups:
        tick()
        without.append(score(total - group))
        sizes.append(group.n)
    if not all(map(math.isfinite, (value, *without))):
        raise EvaluationFailed(
            "The score of some of the images is not finite.",
            hint="Look at the images and at the extractor's features.",
        )
    return Replicates(value, tuple(without), tuple(sizes))


def paired_difference(a: Replicates, b: Replicates) -> Replicates:
    """Return the replicates of a's score minus b's.

    Both left out the same images, drawn from the same seeds: what moves both scores
    alike cancels, and the interval is that of the difference alone.

    Raises:
        EvaluationFailed: the groups differ.
    """
    if a.sizes != b.sizes:
        raise EvaluationFailed(
            "Scores over different groups of images have no paired difference.",
            hint="Score both models on the same seeds and shards.",
        )
    without = tuple(map(operator.sub, a.without, b.without))
    return Replicates(a.value - b.value, without, a.sizes)


def jackknife_interval(replicates: Replicates) -> Interval:
    """Return a 95 % interval around the value: Student's t with G - 1 degrees.

    It covers the sampling of the images; it does not correct the bias at n, nor cover
    the reference's sampling or the network.
    """
    num_groups = len(replicates.sizes)
    error = student_t_quantile(num_groups - 1) * standard_error(replicates)
    return Interval(
        low=replicates.value - error,
        high=replicates.value + error,
        method=f"delete-a-group jackknife, {num_groups} groups, Student t",
    )


def standard_error(replicates: Replicates) -> float:
    """Return the jackknife's standard error of the value.

    For groups of unequal sizes, the delete-m_j jackknife (Busing, Meijer and van der
    Leeden, 1999, Statistics and Computing 9, pages 3 to 8). With G equal groups it is
    the root of (G - 1) / G sum_g (s_g - mean s)^2.
    """
    value, num_groups = replicates.value, len(replicates.sizes)
    n = sum(replicates.sizes)
    shares = [size / n for size in replicates.sizes]
    pairs = list(zip(replicates.without, shares, strict=True))
    centre = num_groups * value - sum((1 - share) * s for s, share in pairs)
    variance = 0.0
    for s, share in pairs:
        pseudo = (value - (1 - share) * s) / share
        variance += (pseudo - centre) ** 2 / (1 / share - 1)
    return math.sqrt(variance / num_groups)


def mean_interval(values: Float[Tensor, "N"]) -> Interval | None:
    """Return a 95 % interval of a mean over images: Student's t with N - 1 degrees.

    For scores that are means of one value an image (PSNR, SSIM, feature distance; also
    the classifier score's splits). It covers the sampling of the images alone. None
    where there is none: of fewer than two values, or where one is infinite, as the PSNR
    of equal images.

    Raises:
        EvaluationFailed: a value is NaN.
    """
    if bool(values.isnan().any()):
        raise EvaluationFailed(
            "A value to average is NaN.", hint="Look at the images: one is broken."
        )
    n = len(values)
    if n < 2 or bool(values.isinf().any()):
        return None
    exact = values.double()
    mean = float(exact.mean())
    error = student_t_quantile(n - 1) * float(exact.std()) / math.sqrt(n)
    return Interval(
        low=mean - error, high=mean + error, method=f"Student t over {n} values"
    )


@cache
def student_t_quantile(degrees: int, *, coverage: float = COVERAGE) -> float:
    """Return t with P(|T| < t) = coverage, for whole degrees of freedom from 1 on.

    By bisection of `student_t_coverage` over the angle atan(t / sqrt(degrees)).
    """
    low, high = 0.0, math.pi / 2
    while True:
        angle = (low + high) / 2
        if angle in (low, high):
            return math.sqrt(degrees) * math.tan(angle)
        if student_t_coverage(angle, degrees) < coverage:
            low = angle
        else:
            high = angle


def student_t_coverage(angle: float, degrees: int) -> float:
    """Return P(|T| < sqrt(degrees) tan(angle)).

    A finite sum (Abramowitz and Stegun, 26.7.3 and 26.7.4); exact, so no table.
    """
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(2 + odd, degrees - 1, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    return (angle + sine * total) * 2 / math.pi if odd else sine * total

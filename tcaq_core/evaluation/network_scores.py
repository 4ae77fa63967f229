"""Scores over each image's features or logits: kernel distance, classes, manifolds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from tcaq_core.evaluation.classifier_score import ClassifierSums, merge_sums
from tcaq_core.evaluation.jackknife import (
    Replicates,
    consecutive_groups,
    jackknife_interval,
)
from tcaq_core.evaluation.kernel_distance import (
    SUBSET_SIZE,
    RowStore,
    kernel_distance,
)
from tcaq_core.evaluation.measured import Measured, Spread
from tcaq_core.evaluation.plan import EvaluationPlan
from tcaq_core.evaluation.precision_recall import NEIGHBOURS, precision_recall
from tcaq_core.evaluation.shard import LOGITS, Subject

MANIFOLD_GROUPS: Final = 10
MOST_DISTANCES: Final = 25_000_000
"""Pairs of images up to which a manifold is computed again without each group."""

Tick = Callable[[], None]
"""Called between pieces of the work; what it raises ends it."""


def kernel(
    generated: RowStore,
    reference: RowStore,
    *,
    subset_size: int = SUBSET_SIZE,
    tick: Tick,
) -> Measured:
    """Return the kernel distance (KID), the mean over subsets.

    Of n images, subsets of m share some: with V the variance of one subset's value,
    they spread by s^2 = V (1 - m / n) only, while the mean over S of them has the
    variance V m / n + s^2 / S. The interval is Student's t with that, the first term
    from s^2: s^2 m / (n - m). The reference's part in s makes it rather too wide.
    """
    found = kernel_distance(generated, reference, subset_size=subset_size, tick=tick)
    n, m, num_subsets = len(generated), found.subset_size, found.num_subsets
    if n < 2 * m:
        note = "No interval: fewer images than two subsets."
        return Measured(found.mean, None, notes=(note,))
    spread = Spread(
        found.values,
        m / (n - m) + 1 / num_subsets,
        f"spread of {num_subsets} subsets of {m} of {n} images, Student t",
    )
    return Measured(found.mean, spread.interval(found.mean), spread=spread)


def classifier(images: Subject, plan: EvaluationPlan) -> Measured:
    """Return the classifier score (IS), the mean over ten splits."""
    found = merge_sums(
        ClassifierSums.of(
            images.tensor(number, LOGITS),
            first=plan.images_of(number).start,
            num_images=plan.num_images,
        )
        for number in range(plan.num_shards)
    ).score()
    num_splits = len(found.splits)
    method = f"Student t over {num_splits} splits"
    spread = Spread(found.splits, 1 / num_splits, method)
    return Measured(found.mean, spread.interval(found.mean), spread=spread)


@dataclass(frozen=True)
class Manifold:
    """Improved precision and recall: they come together."""

    precision: Measured
    recall: Measured


def manifold(generated: RowStore, reference: RowStore, *, tick: Tick) -> Manifold:
    """Return improved precision and recall, jackknifed where that is affordable."""
    whole = precision_recall(generated, reference, tick=tick)
    groups = consecutive_groups(len(generated), max_groups=MANIFOLD_GROUPS)
    note = None
    if len(generated) - max(map(len, groups)) <= NEIGHBOURS:
        note = "No interval: without a group of images, too few are left."
    elif len(generated) * max(len(reference), len(generated)) > MOST_DISTANCES:
        note = "No interval: the manifold would have to be computed ten times more."
    if note is not None:
        return Manifold(
            Measured(whole.precision, None, notes=(note,)),
            Measured(whole.recall, None, notes=(note,)),
        )
    sizes = tuple(map(len, groups))
    without = [
        precision_recall(_Without(generated, group), reference, tick=tick)
        for group in groups
    ]
    return Manifold(
        _jackknifed(whole.precision, [one.precision for one in without], sizes),
        _jackknifed(whole.recall, [one.recall for one in without], sizes),
    )


def _jackknifed(
    value: float, without: Sequence[float], sizes: tuple[int, ...]
) -> Measured:
    replicates = Replicates(value, tuple(without), sizes)
    return Measured(value, jackknife_interval(replicates), replicates)


@dataclass(frozen=True)
class _Without:
    """All rows but those of a group."""

    store: RowStore
    group: range

    def __len__(self) -> int:
        return len(self.store) - len(self.group)

    def rows(self, indices: Int64[Tensor, "M"]) -> Float32[Tensor, "M F"]:
        skipped = torch.where(indices < self.group.start, 0, len(self.group))
        return self.store.rows(indices + skipped)

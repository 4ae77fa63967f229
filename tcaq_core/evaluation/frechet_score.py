"""The Frechet distance of a subject's features to a reference, with its jackknife."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, overload

import torch
from jaxtyping import Float64
from torch import Tensor

from tcaq_core.evaluation.frechet import Gaussian, ReferenceRoot
from tcaq_core.evaluation.jackknife import (
    consecutive_groups,
    jackknife_interval,
    leave_one_out,
)
from tcaq_core.evaluation.kernel_distance import RowStore
from tcaq_core.evaluation.measured import Measured
from tcaq_core.evaluation.moments import FeatureMoments, merge_moments

CHUNK: Final = 1_000
"""Images whose features are in memory at once."""


@dataclass(frozen=True)
class GroupedMoments(Sequence[FeatureMoments]):
    """The moments of consecutive groups of images, read from files when asked for."""

    features: RowStore
    groups: tuple[range, ...]
    origin: Float64[Tensor, "F"]

    def __len__(self) -> int:
        return len(self.groups)

    @overload
    def __getitem__(self, index: int) -> FeatureMoments: ...
    @overload
    def __getitem__(self, index: slice) -> list[FeatureMoments]: ...
    def __getitem__(self, index: int | slice) -> FeatureMoments | list[FeatureMoments]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return merge_moments(
            FeatureMoments.of(self.features.rows(chunk), origin=self.origin)
            for chunk in torch.arange(
                self.groups[index].start, self.groups[index].stop
            ).split(CHUNK)
        )


def measure(
    features: RowStore, reference: ReferenceRoot, *, tick: Callable[[], None]
) -> Measured:
    """Return the Frechet distance of all images to the reference.

    The interval leaves out each of at most 20 groups of consecutive images. There is
    none where too few images would be left for a covariance of full rank.

    Raises:
        EvaluationFailed: as `ReferenceRoot.distance`.
    """
    groups = GroupedMoments(
        features,
        consecutive_groups(len(features)),
        # About the reference's mean, no digits are lost.
        reference.gaussian.mean,
    )

    def distance(moments: FeatureMoments) -> float:
        return reference.distance(Gaussian.of(moments))

    width, largest = len(reference.gaussian.mean), max(map(len, groups.groups))
    if len(features) - largest <= width:
        note = (
            f"No interval: without a group of images, too few are left for a "
            f"covariance of {width} features."
        )
        return Measured(distance(merge_moments(groups)), None, notes=(note,))
    replicates = leave_one_out(groups, distance, tick=tick)
    return Measured(replicates.value, jackknife_interval(replicates), replicates)

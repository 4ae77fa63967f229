"""What reference statistics are computed from, image after image."""

import hashlib
from typing import BinaryIO

from jaxtyping import Float32, Float64, UInt8
from torch import Tensor

from tcaq_core.errors import EvaluationFailed, ImagesUnusable
from tcaq_core.evaluation.features import Extractor, Features
from tcaq_core.evaluation.moments import FeatureMoments
from tcaq_core.evaluation.reference_file import (
    POOLED,
    SPATIAL,
    covariance_of,
    mean_of,
)


class StreamedSums:
    """What is kept of the images that have streamed by."""

    def __init__(self, file: BinaryIO | None, *, has_spatial: bool) -> None:
        self._file = file
        self._kinds = (POOLED, SPATIAL) if has_spatial else (POOLED,)
        self._moments: dict[str, FeatureMoments] = {}
        self.pixels = hashlib.sha256()
        self.count = 0

    def add(self, batch: UInt8[Tensor, "N H W 3"], extractor: Extractor) -> None:
        """Take in the next images.

        Raises:
            ImagesUnusable: their features are not finite, or the network refuses them.
        """
        first = self.count
        self.count += len(batch)
        self.pixels.update(batch.numpy().tobytes())
        try:
            features = extractor(batch)
            for kind in self._kinds:
                self._add_moments(kind, _of_kind(features, kind))
        except EvaluationFailed as error:
            raise ImagesUnusable(
                f"Of images {first} to {self.count - 1}: {error.detail}",
                hint="Look at these images; they are counted from 0, in the order of "
                "their paths.",
            ) from error
        if self._file is not None:
            self._file.write(features.pooled.numpy().astype("<f4").tobytes())

    def _add_moments(self, kind: str, features: Float32[Tensor, "N F"]) -> None:
        if kind not in self._moments:
            # About a point near the mean no digits are lost (FeatureMoments).
            origin = features.double().mean(0)
            self._moments[kind] = FeatureMoments.of(features, origin=origin)
        else:
            so_far = self._moments[kind]
            new = FeatureMoments.of(features, origin=so_far.origin)
            self._moments[kind] = so_far + new

    def statistics(self) -> dict[str, Float64[Tensor, "..."]]:
        """Return means (F,) and covariances (F, F) under their names in the file."""
        found = {}
        for kind, moments in self._moments.items():
            found[mean_of(kind)] = moments.mean
            found[covariance_of(kind)] = moments.covariance
        return found


def _of_kind(features: Features, kind: str) -> Float32[Tensor, "N F"]:
    found = features.pooled if kind == POOLED else features.spatial
    if found is None:
        raise EvaluationFailed(
            "The network gave no spatial features, which it declares.",
            hint="This is a fault of the extractor.",
        )
    return found

"""Improved precision and recall (Kynkaanniemi et al., 1904.06991, section 2).

A set's manifold is the union of balls around its features, each reaching to the k-th
nearest other feature of the set. Precision is the share of generated images inside the
real manifold, recall the share of real images inside the generated one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from tcaq_core.errors import EvaluationFailed
from tcaq_core.evaluation.kernel_distance import RowStore
from tcaq_core.evaluation.moments import refuse_not_finite

NEIGHBOURS: Final = 3
CHUNK: Final = 2048
TIE: Final = 1e-12
"""A point this close to a ball's edge lies in it, relative to |x|^2 + |y|^2, of which
|x - y|^2 = |x|^2 + |y|^2 - 2 x.y carries a rounding error of some 1e-15. So a copy of a
feature lies in that feature's ball even where its radius is 0, and no result depends on
the chunks' size."""


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares in [0, 1]."""

    precision: float
    recall: float


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Consecutive features, less a common origin, and their squared lengths."""

    at: slice
    x: Float64[Tensor, "M F"]
    length: Float64[Tensor, "M"]


@dataclass(frozen=True, eq=False)
class _Set:
    """The features of one side, read a chunk at a time."""

    store: RowStore
    origin: Float64[Tensor, "F"]
    size: int

    def chunks(self, start: int = 0) -> Iterator[_Chunk]:
        for first in range(start, len(self.store), self.size):
            end = min(first + self.size, len(self.store))
            x = _read(self.store, first, end) - self.origin
            yield _Chunk(slice(first, end), x, x.square().sum(1))


def precision_recall(
    generated: RowStore,
    reference: RowStore,
    *,
    neighbours: int = NEIGHBOURS,
    chunk: int = CHUNK,
    tick: Callable[[], None] = lambda: None,
) -> PrecisionRecall:
    """Return precision and recall of generated images.

    Distances are float64. Memory grows with chunk^2 and chunk x F, and with a few
    numbers an image; time with the square of the number of images. `tick` is called
    before each pair of chunks; what it raises ends the computation.

    Raises:
        EvaluationFailed: no more images than neighbours on a side, features of
            different widths or not finite.
    """
    _refuse_few(min(len(generated), len(reference)), neighbours)
    origin = _read(reference, 0, min(chunk, len(reference))).mean(0)
    _refuse_other_width(generated, len(origin))
    fake, real = (_Set(store, origin, chunk) for store in (generated, reference))
    fake_radius = _squared_radii(fake, neighbours, tick)
    real_radius = _squared_radii(real, neighbours, tick)
    fake_inside = torch.zeros(len(generated), dtype=torch.bool)
    real_inside = torch.zeros(len(reference), dtype=torch.bool)
    for a in fake.chunks():
        for b in real.chunks():
            tick()
            distance = _squared_distances(a, b)
            distance -= TIE * _scale(a, b)
            in_real: Bool[Tensor, "M K"] = distance <= real_radius[b.at]
            in_fake: Bool[Tensor, "M K"] = distance <= fake_radius[a.at, None]
            fake_inside[a.at] |= in_real.any(1)
            real_inside[b.at] |= in_fake.any(0)
    return PrecisionRecall(
        precision=float(fake_inside.double().mean()),
        recall=float(real_inside.double().mean()),
    )


def _squared_radii(
    points: _Set, neighbours: int, tick: Callable[[], None]
) -> Float64[Tensor, "N"]:
    """Return each point's squared distance to its k-th nearest other point.

    Other points at the same place count: the radius of k + 1 copies is 0.
    """
    nearest = torch.full(
        (len(points.store), neighbours), torch.inf, dtype=torch.float64
    )

    def keep(at: slice, distance: Float64[Tensor, "M K"]) -> None:
        seen = torch.cat([nearest[at], distance], dim=1)
        nearest[at] = seen.topk(neighbours, dim=1, largest=False).values

    for a in points.chunks():
        for b in points.chunks(a.at.start):
            tick()
            distance = _squared_distances(a, b)
            if b.at == a.at:
                keep(a.at, distance.fill_diagonal_(torch.inf))
            else:
                keep(a.at, distance)
                keep(b.at, distance.T)
    return nearest.amax(1)


def _squared_distances(a: _Chunk, b: _Chunk) -> Float64[Tensor, "M K"]:
    return (a.x @ b.x.T).mul_(-2).add_(_scale(a, b)).clamp_(min=0)


def _scale(a: _Chunk, b: _Chunk) -> Float64[Tensor, "M K"]:
    return a.length[:, None] + b.length


def _read(store: RowStore, first: int, end: int) -> Float64[Tensor, "M F"]:
    features = store.rows(torch.arange(first, end))
    refuse_not_finite(features)
    return features.double()


def _refuse_few(num_images: int, neighbours: int) -> None:
    if num_images <= neighbours:
        raise EvaluationFailed(
            f"{num_images} images have no {neighbours} nearest others.",
            hint=f"Score at least {neighbours + 1} images against as many.",
        )


def _refuse_other_width(generated: RowStore, num_features: int) -> None:
    width = generated.rows(torch.arange(1)).shape[1]
    if width != num_features:
        raise EvaluationFailed(
            f"The images have {width} features each, the reference {num_features}.",
            hint="Make both with the same extractor and layer.",
        )

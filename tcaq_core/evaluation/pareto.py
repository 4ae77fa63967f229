"""A sweep's table: which settings no other setting beats in everything; torch-free."""

from collections.abc import Sequence
from typing import Final

from pydantic import Field

from tcaq_core.evaluation.protocols import Data, Metric

HIGHER_IS_BETTER: Final = frozenset(
    {"is", "cs", "precision", "recall", "psnr_db", "ssim"}
)


class Point(Data):
    """What one setting costs, and what it gives."""

    bytes: int = Field(ge=0)
    """Of the denoiser's weights."""
    ms_per_image: float | None
    """None: it could not be timed."""
    score: float | None
    """None: infinite, as the PSNR of equal images."""


def on_front(points: Sequence[Point], *, metric: Metric) -> tuple[bool, ...]:
    """Return which points no other is at least as good as in all, and better in one.

    Bytes and milliseconds: less is better; the score: as its metric has it. Equal
    points are all on the front.
    """
    costs = [_costs(point, metric) for point in points]
    return tuple(not any(_beats(other, own) for other in costs) for own in costs)


def _beats(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def _costs(point: Point, metric: Metric) -> tuple[float, float, float]:
    sign = -1.0 if metric in HIGHER_IS_BETTER else 1.0
    # What could not be timed is no faster than anything.
    time = float("inf") if point.ms_per_image is None else point.ms_per_image
    score = float("inf") if point.score is None else point.score
    return float(point.bytes), time, sign * score

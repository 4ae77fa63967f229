import io
from typing import Any

import numpy as np
from PIL import Image

from worker.pareto_plot import plot


def _table(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - a point's fields
    point = {
        "weight_bits": 4,
        "activation_bits": 8,
        "recipe": "rtn",
        "bytes": 2_000_000,
        "ms_per_image": 5.0,
        "score": 7.0,
        "score_ci95": [6.5, 7.5],
        "on_front": True,
    }
    other = point | {"recipe": "standard", "bytes": 4_000_000, "on_front": False}
    return {
        "metric": "fd",
        "score_label": "FD-tiny",
        "points": [point | changes, other],
        "baseline": {"scores": [{"metric": "fd", "value": 6.8}]},
    }


def _pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_the_same_table_is_the_same_picture() -> None:
    assert plot(_table(), metric="fd") == plot(_table(), metric="fd")


def test_what_is_on_the_front_is_told_apart() -> None:
    other = plot(_table(on_front=False), metric="fd")
    assert not np.array_equal(_pixels(plot(_table(), metric="fd")), _pixels(other))


def test_points_without_time_score_or_interval_are_no_obstacle() -> None:
    for changes in (
        {"ms_per_image": None},
        {"score": None, "score_ci95": None},
        {"score_ci95": None},
    ):
        height, width, _ = _pixels(plot(_table(**changes), metric="fd")).shape
        assert (width, height) == (1210, 495)

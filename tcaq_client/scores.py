"""What an evaluation measured, as frozen data.

`raw` is the JSON object itself: a score's holds everything that decides its value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

Interval: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Score:
    """One metric of one evaluation."""

    metric: str
    label: str
    """How to print it, with the feature network's name where that is not FID's."""
    value: float | None
    """None: infinite, as the PSNR of equal images."""
    ci95: Interval | None
    baseline: float | None
    """The full-precision model's score with the same seeds; None without one."""
    delta: float | None
    """This score minus the baseline's."""
    delta_ci95: Interval | None
    protocol: str
    changed: tuple[str, ...]
    """What the request changed of the protocol; comparable where empty."""
    num_images: int
    execution: str
    """``integer``, ``simulated`` or ``full-precision``."""
    notes: tuple[str, ...]
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_json(cls, score: Mapping[str, Any]) -> Self:
        """Read one record of GET /jobs/{id}/scores."""
        baseline: Mapping[str, Any] = score.get("baseline") or {}
        return cls(
            metric=str(score["metric"]),
            label=str(score["label"]),
            value=_number(score["value"]),
            ci95=_interval(score.get("ci95")),
            baseline=_number(baseline.get("value")),
            delta=_number(baseline.get("delta")),
            delta_ci95=_interval(baseline.get("delta_ci95")),
            protocol=str(score["protocol"]["name"]),
            changed=tuple(map(str, score["protocol"].get("changed") or ())),
            num_images=int(score["n_generated"]),
            execution=str(score["execution"]),
            notes=tuple(map(str, score.get("notes") or ())),
            raw=score,
        )


@dataclass(frozen=True)
class SweepPoint:
    """One setting of a sweep with one recipe: a checkpoint and what it is worth."""

    weight_bits: int
    activation_bits: int
    softmax_bits: int
    recipe: str
    checkpoint_sha256: str
    """Target of `Client.sample` and `Client.evaluate`."""
    num_bytes: int
    """Of the denoiser's packed weights."""
    ms_per_image: float | None
    """Milliseconds; None where the worker did not time it."""
    score: float | None
    """None: infinite, or there is none."""
    score_label: str
    is_on_front: bool
    """Whether no other point is better in all three."""
    scores: tuple[Score, ...]
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_json(cls, point: Mapping[str, Any]) -> Self:
        """Read one of a sweep's `points`."""
        return cls(
            weight_bits=int(point["weight_bits"]),
            activation_bits=int(point["activation_bits"]),
            softmax_bits=int(point["softmax_bits"]),
            recipe=str(point["recipe"]),
            checkpoint_sha256=str(point["checkpoint"]["sha256"]),
            num_bytes=int(point["bytes"]),
            ms_per_image=_number(point.get("ms_per_image")),
            score=_number(point.get("score")),
            score_label=str(point["score_label"]),
            is_on_front=bool(point["on_front"]),
            scores=tuple(map(Score.from_json, point.get("scores") or ())),
            raw=point,
        )


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _interval(value: Sequence[float] | None) -> Interval | None:
    if value is None:
        return None
    low, high = value
    return float(low), float(high)

"""A sweep's points: which there are, and what one is in the table."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from jobs.artifacts import StoredArtifact
from jobs.stages import Stage, plan, plan_sweep
from tcaq_core.evaluation.pareto import Point, on_front
from tcaq_core.evaluation.plan import EvaluationPlan
from tcaq_core.evaluation.protocols import Sampling
from tcaq_core.quad_schedule import quad_timesteps
from tcaq_core.recipe import (
    ActivationBits,
    CalibrationSpec,
    Method,
    Recipe,
    SoftmaxBits,
    WeightBits,
    resolve,
)
from worker.guarded import Round

NUM_TIMESTEPS = 1000
Row = dict[str, Any]


class Setting(BaseModel, frozen=True):
    """Bit widths."""

    weight_bits: WeightBits
    activation_bits: ActivationBits
    softmax_bits: SoftmaxBits = 8


class SweepRequest(BaseModel, frozen=True):
    """The part of a sweep's stored request that the work depends on."""

    settings: tuple[Setting, ...]
    recipes: tuple[str | Method, ...]
    calibration: CalibrationSpec = CalibrationSpec()
    plan: EvaluationPlan

    def points(self) -> Iterator["Wanted"]:
        """Yield every setting with every recipe, in order."""
        for setting in self.settings:
            for index, method in enumerate(self.recipes):
                recipe = resolve(
                    method, **setting.model_dump(), calibration=self.calibration
                )
                name = method if isinstance(method, str) else f"recipe-{index + 1}"
                yield Wanted(setting, name, recipe)


@dataclass(frozen=True)
class Wanted:
    """One point before it is worked on."""

    setting: Setting
    name: str
    recipe: Recipe

    def described(self) -> Row:
        """Return what names the point in the table."""
        return {
            **self.setting.model_dump(),
            "recipe": self.name,
            "recipe_digest": self.recipe.digest(),
        }


def sweep_stages(request: SweepRequest) -> tuple[Stage, ...]:
    """Return a sweep's stages; a point is taken to cost what the first one does."""
    points = list(request.points())
    return plan_sweep(len(points), point_stages(points[0], request))


def point_stages(point: Wanted, request: SweepRequest) -> tuple[Stage, ...]:
    """Return the stages of one point."""
    return plan(point.recipe, evaluation=request.plan)


def row_of(point: Wanted, made: Round, sampling: Sampling) -> Row:
    """Return a finished point as the table has it."""
    result, scores = made.quantized.result, made.evaluated.result["scores"]
    checkpoint = result["checkpoint"]
    first = scores[0]
    stored = {**made.quantized.artifacts, **made.evaluated.artifacts}
    return {
        **point.described(),
        "checkpoint": checkpoint,
        "bytes": checkpoint["denoiser_bytes"],
        "ms_per_image": ms_per_image(result, result["execution"], sampling),
        "execution": result["execution"],
        "score": first["value"],
        "score_ci95": first["ci95"],
        "score_label": first["label"],
        "scores": scores,
        "artifacts": {
            name: [one.sha256, one.size_bytes, one.media_type]
            for name, one in stored.items()
        },
        "float32": {
            "bytes": result["float32_bytes"],
            "ms_per_image": ms_per_image(result, "float32", sampling),
        },
    }


def ms_per_image(
    result: Mapping[str, Any], engine: str | None, sampling: Sampling
) -> float | None:
    """Return the milliseconds of all denoiser evaluations of an image.

    From the job's own benchmark; None where it measured nothing.
    """
    benchmark = result.get("benchmark") or {}
    seconds = benchmark.get("seconds_per_image", {}).get(engine)
    return None if seconds is None else 1000 * seconds * _evaluations(sampling)


def _evaluations(sampling: Sampling) -> int:
    if sampling.schedule == "uniform":
        return sampling.num_steps
    return len(quad_timesteps(sampling.num_steps, num_timesteps=NUM_TIMESTEPS))


def artifacts_of(rows: Sequence[Row]) -> dict[str, StoredArtifact]:
    """Return everything the points have made, by name: ``checkpoint/0``."""
    return {
        f"{name}/{index}": StoredArtifact(*stored)
        for index, row in enumerate(rows)
        for name, stored in row["artifacts"].items()
    }


def table_of(rows: Sequence[Row], request: SweepRequest) -> dict[str, Any]:
    """Return the table: points, which are on the front, and the baseline."""
    metric = request.plan.metrics[0]
    points = [
        Point(bytes=row["bytes"], ms_per_image=row["ms_per_image"], score=row["score"])
        for row in rows
    ]
    front = on_front(points, metric=metric)
    hidden = {"artifacts", "float32"}
    return {
        "metric": metric,
        "score_label": rows[0]["score_label"],
        "points": [
            {k: v for k, v in row.items() if k not in hidden} | {"on_front": is_on}
            for row, is_on in zip(rows, front, strict=True)
        ],
        "baseline": _baseline(rows),
    }


def _baseline(rows: Sequence[Row]) -> Row:
    """Return full precision's row: the same in every point but for its timing."""
    timed = [row["float32"]["ms_per_image"] for row in rows]
    found = [
        {key: score[key] for key in ("metric", "label")}
        | {"value": score["baseline"]["value"], "ci95": score["baseline"]["ci95"]}
        for score in rows[0]["scores"]
        if score["baseline"] is not None
    ]
    return {
        "bytes": rows[0]["float32"]["bytes"],
        "ms_per_image": next((ms for ms in timed if ms is not None), None),
        "scores": found,
    }

"""A job's stages and their shares of its run time, known before it starts."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

from tcaq_core.estimate import evaluations
from tcaq_core.evaluation.plan import EvaluationPlan
from tcaq_core.evaluation.spec import Guards
from tcaq_core.recipe import (
    DAQ,
    PAR,
    TCR,
    Allocate,
    Correct,
    FitRanges,
    Modulate,
    Pass,
    Recipe,
    SecondOrder,
    Select,
    Split,
    Temporal,
)


@dataclass(frozen=True)
class Stage:
    """A named part of a job, its expected cost, and what it counts."""

    name: str
    weight: float
    """Cost in evaluations of the denoiser on one image; only ratios matter."""
    unit: str


@dataclass(frozen=True)
class Progress:
    """Where a job stands: what a heartbeat writes on its row."""

    stage: str
    stage_index: int
    stage_count: int
    done: int
    total: int
    unit: str
    fraction: float
    since: datetime | None = None
    """When the stage began, if that is not when the heartbeat is written."""


# Loading, writing and starting the process that checks the checkpoint do not evaluate
# the denoiser; each takes a few seconds, as some 64 evaluations of a small one do.
OVERHEAD = 64.0
# Three engines, some twenty rounds of eight images; cut short on a large model.
BENCHMARK = 512.0
# Tracing a denoiser for ONNX, and running the file, takes half a minute and more.
EXPORT = 512.0
ALWAYS_EXPORTED = "safetensors"
PERMILLE = "permille"
PERMILLE_ALL = 1000


def plan(
    recipe: Recipe,
    *,
    exports: Collection[str] = (),
    evaluation: EvaluationPlan | None = None,
    guards: Guards | None = None,
) -> tuple[Stage, ...]:
    """Return the stages of a quantization.

    They are fetch, calibrate, the passes, save, verify, benchmark, export where
    another format than the checkpoint itself is asked for, evaluate, and guard where
    a violation is repaired. Their costs are those of `tcaq_core.estimate`.
    """
    units = {"fetch": "model", "calibrate": "step", "save": "file"}
    units |= {"verify": "checkpoint"}
    units |= {item.kind: _unit(item) for item in recipe.method.passes}
    quantization = (
        # What does not evaluate the denoiser costs nothing there, but takes its time.
        Stage(name, work or OVERHEAD, units[name])
        for name, work in evaluations(recipe).items()
    )
    others = set(exports) - {ALWAYS_EXPORTED}
    export = (Stage("export", EXPORT * len(others), "file"),) if others else ()
    once = (*quantization, Stage("benchmark", BENCHMARK, "round"), *export)
    if evaluation is None:
        return once
    once = (*once, _evaluate(evaluation))
    if guards is None or guards.on_violation == "fail":
        return once
    # Most often nothing has to be repaired: one round of all that are allowed.
    return (*once, Stage("guard", sum(stage.weight for stage in once), PERMILLE))


def plan_evaluation(evaluation: EvaluationPlan) -> tuple[Stage, ...]:
    """Return the stages of an evaluation: fetch, then all of its images."""
    return (Stage("fetch", OVERHEAD, "model"), _evaluate(evaluation))


def plan_sweep(points: int, each: Sequence[Stage]) -> tuple[Stage, ...]:
    """Return the stages of a sweep whose every point goes through the stages `each`."""
    cost = points * sum(stage.weight for stage in each)
    return (
        Stage("fetch", OVERHEAD, "model"),
        Stage("points", cost, PERMILLE),
        Stage("plot", OVERHEAD / 8, "file"),
    )


def _evaluate(evaluation: EvaluationPlan) -> Stage:
    subjects = 2 if evaluation.baseline else 1
    images = subjects * evaluation.num_images
    return Stage("evaluate", float(images * evaluation.sampling.num_steps), "image")


def plan_sample(*, images: int, steps: int, compare: bool) -> tuple[Stage, ...]:
    """Return the stages of a sample: fetch, the baseline if compared, sample, store."""
    cost = float(images * steps)
    baseline = (Stage("baseline", cost, "step"),) if compare else ()
    return (
        Stage("fetch", OVERHEAD, "model"),
        *baseline,
        Stage("sample", cost, "step"),
        Stage("store", OVERHEAD / 8, "image"),
    )


def progress_of(
    stages: Sequence[Stage],
    name: str,
    *,
    done: int,
    total: int,
    since: datetime | None = None,
) -> Progress:
    """Return the progress of the whole job when stage `name` is at `done` of `total`.

    Raises:
        ValueError: no stage of that name.
    """
    index = [stage.name for stage in stages].index(name)
    share = min(done / total, 1.0) if total > 0 else 0.0
    before = sum(stage.weight for stage in stages[:index])
    whole = sum(stage.weight for stage in stages)
    return Progress(
        stage=name,
        stage_index=index,
        stage_count=len(stages),
        done=done,
        total=total,
        unit=stages[index].unit,
        fraction=min((before + share * stages[index].weight) / whole, 1.0),
        since=since,
    )


def _unit(item: Pass) -> str:
    match item:
        case Select() | Split() | TCR() | FitRanges() | DAQ() | Modulate():
            return "batch"
        case Allocate() | SecondOrder():
            return "layer"
        case Temporal():
            return "iteration"
        case PAR():
            return "block"
        case Correct():
            return "step"
        case _:
            assert_never(item)

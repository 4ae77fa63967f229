"""A job's stages and their shares of its run time, known before it starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

from tcaq_core.recipe import (
    DAQ,
    PAR,
    TCR,
    Allocate,
    CalibrationSpec,
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
# A step of reconstruction runs a block forward and backward, three times a forward.
FORWARD_AND_BACKWARD = 3.0


def plan(recipe: Recipe) -> tuple[Stage, ...]:
    """Return the stages of a quantization: fetch, calibrate, the passes, save, verify.

    The cost model counts evaluations of the denoiser on one image: calibration runs
    every step of every trajectory; `tcr`, `fit_ranges` and `daq` run over that data
    again; `par` trains each block, all blocks together being one denoiser, on
    ``batch_size`` images per iteration, and samples new trajectories every round.
    """
    spec = recipe.calibration
    trajectories = float(spec.num_samples * spec.num_steps)
    passes = tuple(_stage_of(item, spec) for item in recipe.method.passes)
    return (
        Stage("fetch", OVERHEAD, "model"),
        Stage("calibrate", trajectories, "step"),
        *passes,
        Stage("save", OVERHEAD, "file"),
        Stage("verify", OVERHEAD, "checkpoint"),
    )


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


# Layers of a typical denoiser: sensitivities are measured one layer at a time.
TYPICAL_LAYERS = 50.0
# Rounding in second order gathers a matrix of moments for every layer.
MOMENTS = 4.0


def _stage_of(item: Pass, spec: CalibrationSpec) -> Stage:
    trajectories = float(spec.num_samples * spec.num_steps)
    match item:
        case Select() | Split() | TCR() | FitRanges() | DAQ() | Modulate():
            return Stage(item.kind, trajectories, "batch")
        case Allocate():
            runs = TYPICAL_LAYERS * len(item.candidates)
            return Stage(item.kind, runs * item.num_inputs, "layer")
        case Temporal():
            # Its layers see one vector a timestep: thousands of steps are one image.
            return Stage(item.kind, trajectories + item.iterations / 100, "iteration")
        case SecondOrder():
            inputs = min(float(item.num_inputs), trajectories)
            return Stage(item.kind, MOMENTS * inputs, "layer")
        case PAR():
            iterations = item.iterations + item.rounds * item.round_iterations
            if item.learn_ranges == "after":
                iterations += (1 + item.rounds) * item.range_iterations
            training = FORWARD_AND_BACKWARD * iterations * item.batch_size
            return Stage(item.kind, training + item.rounds * trajectories, "block")
        case Correct():
            cost = 2.0 * item.num_samples * spec.num_steps
            return Stage(item.kind, cost, "step")
        case _:
            assert_never(item)

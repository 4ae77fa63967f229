"""The algorithm, readable in one screen: calibrate, then the recipe's passes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from tcaq_core.calibration import CalibrationSet, record_trajectories
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.diffusion import Pipeline
from tcaq_core.errors import CalibrationFailed
from tcaq_core.journal import Journal, NoJournal
from tcaq_core.pass_run import Run
from tcaq_core.passes import par
from tcaq_core.recipe import CalibrationSpec, Recipe
from tcaq_core.report import after_pass
from tcaq_core.resume import Stages, calibrated, recorded
from tcaq_core.timesteps import SamplerSteps
from tcaq_core.workspace import Workspace

# Below that, one odd input decides every range.
MIN_INPUTS = 4

Progress = Callable[[str, int, int], None]
"""Receives (stage, done, total); may raise `Interrupted` to stop the job."""


@dataclass(frozen=True)
class QuantizationResult:
    """A pipeline's denoiser, quantized in place, and what each pass reported."""

    denoiser: QuantizedDenoiser
    report: dict[str, Any]


def quantize(
    pipeline: Pipeline,
    recipe: Recipe,
    *,
    progress: Progress,
    journal: Journal | None = None,
    workspace: Workspace | None = None,
    data: CalibrationSet | None = None,
) -> QuantizationResult:
    """Quantize the denoiser of a pipeline, in place.

    Everything random follows from ``recipe.calibration.seed``: the same pipeline and
    recipe give the same codes on the same machine, also where a `journal` is resumed.
    `data` is what `calibrate` has recorded of this pipeline already, to be shared by
    several recipes with this calibration.

    Raises:
        ModelUnsupported: no quantizable layer, or one that cannot be.
        CalibrationFailed: NaN or infinite weights, activations or samples.
        ReconstructionDiverged: a block's reconstruction loss is NaN or infinite.
        OutOfMemory, ResumeRefused: as `Workspace.claim` and `Journal.read`.
    """
    spec, journal = recipe.calibration, journal or NoJournal()
    if data is None:
        data = calibrate(pipeline, spec, journal=journal, progress=progress)
    denoiser = QuantizedDenoiser(
        pipeline.denoiser, recipe, num_timesteps=pipeline.num_timesteps
    )

    def resample(round_index: int, tick: par.Tick) -> CalibrationSet:
        # Fresh noise: seeds of different rounds never overlap.
        first = spec.seed + round_index * spec.num_samples
        return record_trajectories(pipeline, run.trajectory, seed=first, progress=tick)

    generator = torch.Generator().manual_seed(spec.seed)
    stages = Stages(calibrated(journal, data), denoiser, generator)
    run = Run(
        pipeline,
        recipe,
        denoiser,
        stages.restore([config.kind for config in recipe.method.passes], data),
        SamplerSteps.of_data(data.t),
        resample,
        generator,
        stages.journal,
        workspace or Workspace(),
    )
    _run_passes(run, stages, data, progress)
    return QuantizationResult(denoiser, stages.report)


def calibrate(
    pipeline: Pipeline,
    spec: CalibrationSpec,
    *,
    journal: Journal,
    progress: Progress,
) -> CalibrationSet:
    """Record the full-precision pipeline's trajectories, or take the journal's.

    Raises:
        CalibrationFailed: NaN or infinite samples, or too few inputs.
        ResumeRefused: as `Journal.read`.
    """
    progress("calibrate", 0, 1)
    data = recorded(
        journal,
        "calibrate",
        lambda: record_trajectories(
            pipeline, spec, seed=spec.seed, progress=_stage(progress, "calibrate")
        ),
        device=pipeline.denoiser.device,
        tick=partial(progress, "calibrate", 1, 1),
    )
    if len(data) < MIN_INPUTS:
        raise CalibrationFailed(
            f"Calibration gives {len(data)} inputs of the denoiser; ranges, moments "
            f"and reconstructions need at least {MIN_INPUTS}.",
            hint="Raise calibration.num_samples or calibration.num_steps.",
        )
    return data


def _run_passes(
    run: Run, stages: Stages, data: CalibrationSet, progress: Progress
) -> None:
    """Run what is not restored; report on each pass and save what it left."""
    report = stages.report
    for config in run.recipe.method.passes:
        progress(config.kind, 0, 1)
        if config.kind in stages.finished:
            progress(config.kind, 1, 1)
            stages.journal.reached(config.kind)
            continue
        given = run.data
        report[config.kind] = run.apply(config, _stage(progress, config.kind))
        layers = after_pass(
            config.kind,
            run.denoiser,
            data,
            report.get("layers"),
            tick=partial(progress, config.kind, 1, 1),
        )
        if layers is not None:
            report["layers"] = layers
        stages.save(config.kind, data=None if run.data is given else run.data)
        progress(config.kind, 1, 1)


def _stage(progress: Progress, name: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total)

"""The algorithm, readable in one screen: calibrate, then the recipe's passes."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, assert_never

import torch

from tcaq_core.calibration import CalibrationSet, record_trajectories
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.diffusion import Pipeline, counting_calls
from tcaq_core.journal import Journal, NoJournal
from tcaq_core.passes import (
    allocate,
    correct,
    daq,
    fit_ranges,
    modulate,
    par,
    second_order,
    select,
    split,
    tcr,
    temporal,
)
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
from tcaq_core.report import after_pass
from tcaq_core.resume import Stages, calibrated, recorded
from tcaq_core.timesteps import SamplerSteps
from tcaq_core.workspace import Workspace

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
) -> QuantizationResult:
    """Quantize the denoiser of a pipeline, in place.

    Everything random follows from ``recipe.calibration.seed``: the same pipeline and
    recipe give the same codes on the same machine, also where a `journal` is resumed.

    Raises:
        ModelUnsupported: no quantizable layer, or one that cannot be.
        CalibrationFailed: NaN or infinite weights, activations or samples.
        ReconstructionDiverged: a block's reconstruction loss is NaN or infinite.
        OutOfMemory, ResumeRefused: as `Workspace.claim` and `Journal.read`.
    """
    spec, journal = recipe.calibration, journal or NoJournal()
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
    denoiser = QuantizedDenoiser(
        pipeline.denoiser, recipe, num_timesteps=pipeline.num_timesteps
    )

    def resample(round_index: int, tick: par.Tick) -> CalibrationSet:
        # Fresh noise: seeds of different rounds never overlap.
        first = spec.seed + round_index * spec.num_samples
        return record_trajectories(pipeline, spec, seed=first, progress=tick)

    generator = torch.Generator().manual_seed(spec.seed)
    stages = Stages(calibrated(journal, data), denoiser, generator)
    run = _Run(
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
    report = stages.report
    for config in recipe.method.passes:
        progress(config.kind, 0, 1)
        if config.kind in stages.finished:
            progress(config.kind, 1, 1)
            stages.journal.reached(config.kind)
            continue
        given = run.data
        report[config.kind] = run.apply(config, _stage(progress, config.kind))
        layers = after_pass(
            config.kind,
            denoiser,
            data,
            report.get("layers"),
            tick=partial(progress, config.kind, 1, 1),
        )
        if layers is not None:
            report["layers"] = layers
        stages.save(config.kind, data=None if run.data is given else run.data)
        progress(config.kind, 1, 1)
    return QuantizationResult(denoiser, report)


@dataclass
class _Run:
    pipeline: Pipeline
    recipe: Recipe
    denoiser: QuantizedDenoiser
    data: CalibrationSet
    """What the next pass calibrates on: the recorded inputs, or those selected."""
    steps: SamplerSteps
    """The sampler's own, whichever inputs are left in `data`."""
    resample: par.Resample
    generator: torch.Generator
    journal: Journal
    workspace: Workspace

    def apply(  # noqa: C901, PLR0911  (a closed set is one match)
        self, config: Pass, progress: Callable[[int, int], None]
    ) -> object:
        """Run one pass; return what it has to report, if anything."""
        denoiser, data, generator = self.denoiser, self.data, self.generator
        match config:
            case TCR():
                with self.counting_batches(progress):
                    return tcr.apply(denoiser, data, config)
            case FitRanges():
                with self.counting_batches(progress):
                    fit_ranges.apply(denoiser, data, config, generator=generator)
            case DAQ():
                with self.counting_batches(progress):
                    return daq.apply(denoiser, data, config, generator=generator)
            case PAR():
                return par.apply(
                    denoiser,
                    data,
                    config,
                    resample=self.resample,
                    generator=generator,
                    progress=progress,
                    journal=self.journal,
                    workspace=self.workspace,
                )
            case Temporal():
                return temporal.apply(denoiser, self.steps, config, progress=progress)
            case Select():
                with self.counting_batches(progress):
                    self.data = select.apply(
                        denoiser, data, config, generator=generator
                    )
                return select.count_by_timestep(self.data)
            case Split():
                return split.apply(denoiser, data)
            case Allocate():
                return allocate.apply(
                    self.pipeline,
                    denoiser,
                    data,
                    self.recipe,
                    config,
                    progress=progress,
                )
            case SecondOrder():
                return second_order.apply(
                    denoiser,
                    data,
                    config,
                    generator=generator,
                    progress=progress,
                    workspace=self.workspace,
                )
            case Modulate():
                return modulate.apply(
                    self.pipeline,
                    denoiser,
                    self.trajectory,
                    config,
                    seed=self.fresh_seed,
                    progress=progress,
                )
            case Correct():
                return correct.apply(
                    self.pipeline,
                    denoiser,
                    self.trajectory,
                    config,
                    seed=self.fresh_seed,
                    progress=progress,
                )
            case _:
                assert_never(config)
        return None

    @property
    def fresh_seed(self) -> int:
        """The first seed of noise that no calibration set and no round has seen."""
        spec = self.recipe.calibration
        return spec.seed + 17 * spec.num_samples

    @property
    def trajectory(self) -> CalibrationSpec:
        """How the calibrated denoiser is to be sampled with."""
        steps = self.denoiser.recommended_steps
        spec = self.recipe.calibration
        return spec if steps is None else spec.model_copy(update={"num_steps": steps})

    def counting_batches(
        self, progress: Callable[[int, int], None]
    ) -> AbstractContextManager[None]:
        """Report each calibration batch that goes through the denoiser."""
        total = sum(1 for _ in self.data.batches())
        return counting_calls(
            self.denoiser.unet, lambda done: progress(min(done, total), total)
        )


def _stage(progress: Progress, name: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total)

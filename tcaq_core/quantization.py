"""The algorithm, readable in one screen: calibrate, then the recipe's passes."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, assert_never

import torch

from tcaq_core.calibration import CalibrationSet, record_trajectories
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.diffusion import Pipeline, counting_calls
from tcaq_core.passes import daq, fit_ranges, par, tcr
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

Progress = Callable[[str, int, int], None]
"""Receives (stage, done, total); may raise `Interrupted` to stop the job."""


@dataclass(frozen=True)
class QuantizationResult:
    """A pipeline's denoiser, quantized in place, and what each pass reported."""

    denoiser: QuantizedDenoiser
    report: dict[str, Any]


def quantize(
    pipeline: Pipeline, recipe: Recipe, *, progress: Progress
) -> QuantizationResult:
    """Quantize the denoiser of a pipeline, in place.

    Everything random follows from ``recipe.calibration.seed``: the same pipeline and
    recipe give the same codes on the same machine.

    Raises:
        ModelUnsupported: no quantizable layer, or one that cannot be.
        CalibrationFailed: NaN or infinite weights, activations or samples.
        ReconstructionDiverged: a block's reconstruction loss is NaN or infinite.
    """
    spec = recipe.calibration
    progress("calibrate", 0, 1)
    data = record_trajectories(
        pipeline, spec, seed=spec.seed, progress=_stage(progress, "calibrate")
    )
    denoiser = QuantizedDenoiser(
        pipeline.denoiser, recipe, num_timesteps=pipeline.num_timesteps
    )

    def resample(round_index: int, tick: par.Tick) -> CalibrationSet:
        # Fresh noise: seeds of different rounds never overlap.
        first = spec.seed + round_index * spec.num_samples
        return record_trajectories(pipeline, spec, seed=first, progress=tick)

    run = _Run(denoiser, data, resample, torch.Generator().manual_seed(spec.seed))
    report: dict[str, Any] = {}
    for config in recipe.method.passes:
        progress(config.kind, 0, 1)
        report[config.kind] = run.apply(config, _stage(progress, config.kind))
        progress(config.kind, 1, 1)
    return QuantizationResult(denoiser, report)


@dataclass(frozen=True)
class _Run:
    denoiser: QuantizedDenoiser
    data: CalibrationSet
    resample: par.Resample
    generator: torch.Generator

    def apply(self, config: Pass, progress: Callable[[int, int], None]) -> object:
        """Run one pass; return what it has to report, if anything."""
        denoiser, data, generator = self.denoiser, self.data, self.generator
        match config:
            case TCR():
                with self.counting_batches(progress):
                    tcr.apply(denoiser, data, config)
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
                )
            case Select() | Allocate() | Split() | Temporal():
                raise NotImplementedError(config.kind)
            case SecondOrder() | Modulate() | Correct():
                raise NotImplementedError(config.kind)
            case _:
                assert_never(config)
        return None

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

"""One pass of a recipe, given what the job has so far."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import assert_never

import torch

from tcaq_core.calibration import CalibrationSet
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.diffusion import Pipeline, counting_calls
from tcaq_core.journal import Journal
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
from tcaq_core.timesteps import SamplerSteps
from tcaq_core.workspace import Workspace


@dataclass
class Run:
    """What the passes of one job share, and how each is called."""

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

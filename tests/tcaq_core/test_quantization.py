from pathlib import Path

import pytest
import torch

from tcaq_core.calibration import CalibrationSet, record_trajectories
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.diffusion import Pipeline, load_pipeline
from tcaq_core.errors import CalibrationFailed, Interrupted
from tcaq_core.evaluation.paired import relative_mse
from tcaq_core.passes import fit_ranges, select, split
from tcaq_core.quantization import quantize
from tcaq_core.recipe import (
    DAQ,
    PAR,
    TCR,
    CalibrationSpec,
    FitRanges,
    Method,
    Pass,
    Select,
    Split,
    resolve,
)
from tests.tcaq_core.conftest import SPEC

BUDGET = PAR(rounds=1, iterations=5, round_iterations=3)
ABLATION: list[tuple[Pass, ...]] = [
    (FitRanges(),),
    (TCR(), FitRanges()),
    (TCR(), FitRanges(), DAQ()),
    (TCR(), FitRanges(), DAQ(), BUDGET),
]


@pytest.mark.parametrize("passes", ABLATION, ids=lambda p: p[-1].kind + str(len(p)))
def test_every_ablation_at_8_bits_is_close_to_full_precision(
    pipeline: Pipeline, data: CalibrationSet, passes: tuple[Pass, ...]
) -> None:
    with torch.no_grad():
        exact = pipeline.denoiser(data.x_t, data.t).sample
    recipe = resolve(
        Method(passes=passes), weight_bits=8, activation_bits=8, calibration=SPEC
    )
    result = quantize(pipeline, recipe, progress=lambda *_: None)
    kinds = [item.kind for item in passes]
    assert [key for key in result.report if key != "layers"] == kinds
    with torch.no_grad():
        error = relative_mse(result.denoiser(data.x_t, data.t), exact)
    assert 0 < error < 2e-3


def test_progress_reports_calibration_and_each_pass(pipeline: Pipeline) -> None:
    seen: list[tuple[str, int, int]] = []
    recipe = resolve(
        Method(passes=(FitRanges(), BUDGET)),
        weight_bits=4,
        activation_bits=8,
        calibration=SPEC,
    )
    quantize(pipeline, recipe, progress=lambda *args: seen.append(args))
    stages = list(dict.fromkeys(stage for stage, _, _ in seen))
    assert stages == ["calibrate", "fit_ranges", "par"]
    assert all(0 <= done <= total for _, done, total in seen)
    assert seen[-1] == ("par", 1, 1)


def test_an_interruption_from_the_callback_stops_the_job(pipeline: Pipeline) -> None:
    def stop(stage: str, _done: int, _total: int) -> None:
        if stage == "fit_ranges":
            raise Interrupted("stop", hint="asked")

    recipe = resolve("rtn", weight_bits=4, activation_bits=8, calibration=SPEC)
    with pytest.raises(Interrupted):
        quantize(pipeline, recipe, progress=stop)


def test_every_pass_after_a_selection_calibrates_on_what_was_selected(
    tiny_folder: Path,
) -> None:
    fit, choose = FitRanges(activation="min_max"), Select(rule="normal", num_inputs=6)
    recipe = resolve(
        Method(passes=(choose, Split(), fit)),
        weight_bits=4,
        activation_bits=8,
        calibration=SPEC,
    )
    pipeline = load_pipeline(tiny_folder, device=torch.device("cpu"))
    result = quantize(pipeline, recipe, progress=lambda *_: None)
    assert sum(result.report["select"].values()) == 6
    assert all(len(parts) == 2 for parts in result.report["split"].values())

    other = load_pipeline(tiny_folder, device=torch.device("cpu"))
    recorded = record_trajectories(other, SPEC, seed=SPEC.seed)
    denoiser = QuantizedDenoiser(other.denoiser, recipe, num_timesteps=1000)
    generator = torch.Generator().manual_seed(SPEC.seed)
    chosen = select.apply(denoiser, recorded, choose, generator=generator)
    split.apply(denoiser, chosen)
    fit_ranges.apply(denoiser, chosen, fit, generator=generator)
    expected = denoiser.activation_quantizers()
    for name, quantizer in result.denoiser.activation_quantizers().items():
        assert torch.equal(quantizer.scale, expected[name].scale)


def test_too_few_calibration_inputs_are_refused(tiny_folder: Path) -> None:
    spec = CalibrationSpec(num_samples=1, num_steps=3)
    recipe = resolve("rtn", weight_bits=4, activation_bits=8, calibration=spec)
    pipeline = load_pipeline(tiny_folder, device=torch.device("cpu"))
    with pytest.raises(CalibrationFailed, match="gives 3 inputs"):
        quantize(pipeline, recipe, progress=lambda *_: None)

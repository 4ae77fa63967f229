import pytest
import torch

from tcaq_core.calibration import CalibrationSet
from tcaq_core.diffusion import Pipeline
from tcaq_core.errors import Interrupted
from tcaq_core.evaluation.paired import relative_mse
from tcaq_core.quantization import quantize
from tcaq_core.recipe import DAQ, PAR, TCR, FitRanges, Method, Pass, resolve
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
    assert list(result.report) == [item.kind for item in passes]
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

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tcaq_core import checkpoint
from tcaq_core.calibration import record_trajectories
from tcaq_core.correction import OutputCorrection, correction_of
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.diffusion import Pipeline, load_pipeline, sample
from tcaq_core.errors import CalibrationFailed, ModelUnsupported
from tcaq_core.noise_model import Row
from tcaq_core.passes import correct, fit_ranges
from tcaq_core.recipe import CalibrationSpec, Correct, FitRanges, Recipe, resolve
from tcaq_core.state import load_state, state_of
from tcaq_core.structure import structure_of
from tests.tiny import tiny_unet

SPEC = CalibrationSpec(num_samples=6, num_steps=5, seed=3)
RULES = ["ptqd", "tac", "affine"]
CPU = torch.device("cpu")
MIN_MAX = FitRanges(weight="min_max", activation="min_max")


@pytest.fixture
def recipe() -> Recipe:
    return resolve("rtn", weight_bits=3, activation_bits=4, calibration=SPEC)


@pytest.fixture
def quantized(
    pipeline: Pipeline, recipe: Recipe, generator: torch.Generator
) -> QuantizedDenoiser:
    data = record_trajectories(pipeline, SPEC, seed=0)
    denoiser = QuantizedDenoiser(pipeline.denoiser, recipe, num_timesteps=1000)
    fit_ranges.apply(denoiser, data, MIN_MAX, generator=generator)
    return denoiser


def fit(
    pipeline: Pipeline, denoiser: QuantizedDenoiser, rule: str
) -> list[dict[str, object]]:
    config = Correct.model_validate({"rule": rule, "num_samples": 6})
    return correct.apply(
        pipeline, denoiser, SPEC, config, seed=3, progress=lambda *_: None
    )


def errors(pipeline: Pipeline, denoiser: QuantizedDenoiser, *, along: str) -> Tensor:
    """Return the squared error of the prediction at each step of a trajectory."""
    if along == "full_precision":
        with denoiser.full_precision():
            data = record_trajectories(pipeline, SPEC, seed=3)
    else:
        data = record_trajectories(pipeline, SPEC, seed=3)
    found = []
    with torch.no_grad():
        for batch in data.batches(6):  # one step of all six trajectories
            with denoiser.full_precision():
                eps = denoiser(batch.x_t, batch.t)
            found.append((denoiser(batch.x_t, batch.t) - eps).square().double().sum())
    return torch.stack(found)


@pytest.mark.parametrize("rule", RULES)
def test_at_no_step_does_the_error_of_the_predicted_noise_grow(
    pipeline: Pipeline, quantized: QuantizedDenoiser, rule: str
) -> None:
    report = fit(pipeline, quantized, rule)
    along = "full_precision" if rule == "ptqd" else "quantized"
    after = errors(pipeline, quantized, along=along)
    found = correction_of(quantized.unet)
    assert found is not None
    assert len(report) == SPEC.num_steps
    data = record_trajectories(pipeline, SPEC, seed=3)
    if along == "full_precision":
        with quantized.full_precision():
            data = record_trajectories(pipeline, SPEC, seed=3)
    before = []
    with torch.no_grad():
        for batch in data.batches(6):
            with quantized.full_precision():
                eps = quantized(batch.x_t, batch.t)
            found.is_active = False
            before.append((quantized(batch.x_t, batch.t) - eps).square().sum().double())
            found.is_active = True
    assert bool((after <= torch.stack(before) * (1 + 1e-6)).all())
    if rule != "tac":
        assert float(after.sum()) < 0.999 * float(torch.stack(before).sum())


@pytest.mark.parametrize("rule", RULES)
def test_a_correction_survives_a_checkpoint_to_the_last_bit(
    pipeline: Pipeline,
    quantized: QuantizedDenoiser,
    recipe: Recipe,
    tmp_path: Path,
    rule: str,
) -> None:
    plain = checkpoint.probe(pipeline)
    fit(pipeline, quantized, rule)
    digest = checkpoint.probe(pipeline)
    checkpoint.save(tmp_path, pipeline, quantized, recipe, model={}, environment={})
    loaded = checkpoint.load(tmp_path, device=CPU)
    assert checkpoint.probe(loaded.pipeline) == digest != plain
    assert loaded.manifest.structure.is_corrected


def test_a_snapshot_restores_the_correction(
    pipeline: Pipeline, quantized: QuantizedDenoiser, recipe: Recipe
) -> None:
    fit(pipeline, quantized, "ptqd")
    fresh = QuantizedDenoiser(tiny_unet(), recipe, num_timesteps=1000)
    state = state_of(quantized, snapshot=True)
    load_state(fresh, state, structure_of(quantized), snapshot=True)
    again = state_of(fresh, snapshot=True)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_full_precision_is_not_corrected(
    pipeline: Pipeline, quantized: QuantizedDenoiser
) -> None:
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([800, 200])
    with torch.no_grad(), quantized.full_precision():
        before = quantized(x, t)
    fit(pipeline, quantized, "affine")
    with torch.no_grad(), quantized.full_precision():
        assert torch.equal(quantized(x, t), before)
    with torch.no_grad():
        corrected = quantized(x, t)
        as_object = quantized.unet(x, t).sample
    assert not torch.equal(corrected, before)
    assert torch.equal(as_object, corrected)


def test_other_timesteps_read_the_nearest_row(
    pipeline: Pipeline, quantized: QuantizedDenoiser
) -> None:
    fit(pipeline, quantized, "affine")
    found = correction_of(quantized.unet)
    steps = quantized.cursor.steps
    assert found is not None
    assert steps is not None
    assert steps.timesteps == (800, 600, 400, 200, 0)
    eps_hat = torch.randn(3, 3, 8, 8)
    with quantized.cursor.at(torch.tensor([790, 10, 450])):
        out = found(eps_hat)
    for i, row in enumerate((0, 4, 2)):
        exact = (eps_hat[i] - found.bias[row, :, None, None]) * found.gain[
            row, :, None, None
        ]
        assert torch.equal(out[i], exact)


def test_a_correction_is_the_same_every_time(tiny_folder: Path, recipe: Recipe) -> None:
    tables = []
    for _ in range(2):
        pipeline = load_pipeline(tiny_folder, device=CPU)
        data = record_trajectories(pipeline, SPEC, seed=0)
        denoiser = QuantizedDenoiser(pipeline.denoiser, recipe, num_timesteps=1000)
        generator = torch.Generator().manual_seed(0)
        fit_ranges.apply(denoiser, data, MIN_MAX, generator=generator)
        fit(pipeline, denoiser, "affine")
        tables.append(state_of(denoiser)["correction.bias"])
    assert torch.equal(*tables)


def test_nan_predictions_name_the_step(
    pipeline: Pipeline, quantized: QuantizedDenoiser
) -> None:
    # Behind every quantizer: a grid turns NaN into a number.
    quantized.unet.conv_norm_out.bias.fill_(torch.nan)
    with pytest.raises(CalibrationFailed, match="t = 800"):
        fit(pipeline, quantized, "affine")


def test_ptqd_refuses_models_that_do_not_predict_noise(
    pipeline: Pipeline, quantized: QuantizedDenoiser
) -> None:
    pipeline.inner.scheduler.register_to_config(prediction_type="v_prediction")
    with pytest.raises(ModelUnsupported, match="v_prediction"):
        fit(pipeline, quantized, "ptqd")


def attach(
    denoiser: QuantizedDenoiser, *, residual_std: float, gain: float = 1.0
) -> None:
    rows = {
        t: Row(torch.full((3,), gain), torch.zeros(3), residual_std)
        for t in (800, 600, 400, 200, 0)
    }
    correct.attach(denoiser, rows)


def images(pipeline: Pipeline, *, eta: float) -> Tensor:
    return sample(pipeline, seeds=[1, 2], num_steps=5, eta=eta)


def test_less_noise_is_injected_where_quantization_left_some(
    pipeline: Pipeline, quantized: QuantizedDenoiser
) -> None:
    plain, stochastic = images(pipeline, eta=0.0), images(pipeline, eta=1.0)
    attach(quantized, residual_std=1e-12)
    # The same draws: without a residual nothing changes, to the last bit.
    assert torch.equal(images(pipeline, eta=1.0), stochastic)
    attach(quantized, residual_std=0.3)
    assert torch.equal(images(pipeline, eta=0.0), plain)
    assert not torch.equal(images(pipeline, eta=1.0), stochastic)
    assert "step" not in vars(pipeline.inner.scheduler)
    with quantized.full_precision():
        exact = images(pipeline, eta=1.0)
        attach(quantized, residual_std=1e-12)
        assert torch.equal(images(pipeline, eta=1.0), exact)


def test_two_corrections_do_not_pile_up(
    pipeline: Pipeline, quantized: QuantizedDenoiser
) -> None:
    attach(quantized, residual_std=0.0, gain=0.5)
    attach(quantized, residual_std=0.0, gain=2.0)
    found = [m for m in quantized.unet.modules() if isinstance(m, OutputCorrection)]
    assert len(found) == 1
    assert float(found[0].gain[0, 0]) == 2.0

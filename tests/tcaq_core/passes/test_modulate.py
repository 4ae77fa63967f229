from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tcaq_core import checkpoint
from tcaq_core.calibration import record_trajectories, watching_all
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.difference import DifferenceQuantizer, differences_in
from tcaq_core.diffusion import Pipeline, sample
from tcaq_core.errors import CalibrationFailed
from tcaq_core.passes import correct, fit_ranges, modulate
from tcaq_core.quantization import quantize
from tcaq_core.recipe import (
    CalibrationSpec,
    Correct,
    FitRanges,
    Method,
    Modulate,
    Recipe,
    resolve,
)
from tcaq_core.state import load_state, state_of
from tcaq_core.structure import structure_of
from tcaq_core.temporal import temporal_layers
from tests.tiny import tiny_unet

SPEC = CalibrationSpec(num_samples=4, num_steps=5, seed=3)
RANGES = ["step", "dynamic"]
CPU = torch.device("cpu")
MIN_MAX = FitRanges(weight="min_max", activation="min_max")


@pytest.fixture
def recipe() -> Recipe:
    return resolve("rtn", weight_bits=8, activation_bits=4, calibration=SPEC)


@pytest.fixture
def exact(pipeline: Pipeline) -> Tensor:
    return images(pipeline)


@pytest.fixture
def quantized(
    exact: Tensor, pipeline: Pipeline, recipe: Recipe, generator: torch.Generator
) -> QuantizedDenoiser:
    data = record_trajectories(pipeline, SPEC, seed=0)
    denoiser = QuantizedDenoiser(pipeline.denoiser, recipe, num_timesteps=1000)
    fit_ranges.apply(denoiser, data, MIN_MAX, generator=generator)
    return denoiser


def apply(
    pipeline: Pipeline, denoiser: QuantizedDenoiser, ranges: str = "step"
) -> dict[str, object]:
    config = Modulate.model_validate({"ranges": ranges, "num_samples": 4})
    return modulate.apply(
        pipeline, denoiser, SPEC, config, seed=3, progress=lambda *_: None
    )


def images(pipeline: Pipeline) -> Tensor:
    return sample(pipeline, seeds=(50, 51, 52), num_steps=5)


def test_a_hat_stays_within_half_a_grid_step_along_a_trajectory(
    pipeline: Pipeline, quantized: QuantizedDenoiser
) -> None:
    apply(pipeline, quantized)
    quantizers = differences_in(quantized.unet)
    before: dict[str, Tensor | None] = {}
    steps = []

    def see(name: str, args: tuple[Tensor, ...]) -> None:
        before[name] = quantizers[name].before(args[0])

    def check(name: str, x: Tensor, a_hat: Tensor) -> None:
        start, grid = before[name], quantizers[name].grid
        if start is None:
            return
        assert grid is not None
        row = int(quantized.cursor.step[0])
        steps.append(row)
        scale, zero = grid.scale[row], grid.zero_point[row]
        low, high = -zero * scale, (2**grid.num_bits - 1 - zero) * scale
        difference = x - start
        inside = (difference >= low) & (difference <= high)
        assert bool(inside.float().mean() > 0.5)
        # A few units in the last place of a_hat itself, which may be much larger.
        slack = 1e-5 * (1 + x.abs())
        assert bool((((a_hat - x).abs() <= scale / 2 + slack) | ~inside).all())

    watched: dict[str, nn.Module] = dict(quantizers)
    handles = [
        q.register_forward_hook(
            lambda _m, args, out, name=name: check(name, args[0], out)
        )
        for name, q in quantizers.items()
    ]
    with watching_all(watched, see):
        images(pipeline)
    for handle in handles:
        handle.remove()
    assert sorted(set(steps)) == [1, 2, 3, 4]


@pytest.mark.parametrize("ranges", RANGES)
def test_images_come_closer_to_full_precision(
    exact: Tensor, pipeline: Pipeline, quantized: QuantizedDenoiser, ranges: str
) -> None:
    plain = (images(pipeline) - exact).square().mean()
    apply(pipeline, quantized, ranges)
    assert float((images(pipeline) - exact).square().mean()) < float(plain)


@pytest.mark.parametrize("ranges", RANGES)
def test_images_do_not_depend_on_what_was_sampled_before(
    pipeline: Pipeline, quantized: QuantizedDenoiser, ranges: str
) -> None:
    apply(pipeline, quantized, ranges)
    once = images(pipeline)
    # The same batch after another one: nothing is left of the first.
    two = sample(pipeline, seeds=(7, 8, 9, 50, 51, 52), num_steps=5, batch_size=3)
    assert torch.equal(two[3:], once)
    with torch.no_grad():  # a trajectory left unfinished, at an early step
        quantized(torch.randn(3, 3, 8, 8), torch.full((3,), 900))
    assert torch.equal(images(pipeline), once)
    assert all(q.held is None for q in differences_in(quantized.unet).values())


def test_layers_of_the_time_embedding_and_operands_keep_plain_grids(
    pipeline: Pipeline, quantized: QuantizedDenoiser
) -> None:
    plain = quantized.activation_quantizers()
    before = {n: q.scale.clone() for n, q in plain.items()}
    codes = {n: layer.codes().clone() for n, layer in quantized.quant_layers()}
    apply(pipeline, quantized)
    temporal = temporal_layers(quantized)
    assert temporal
    for name, layer in quantized.quant_layers():
        is_modulated = isinstance(layer.input_quantizer, DifferenceQuantizer)
        assert is_modulated is (name not in temporal)
        assert torch.equal(layer.codes(), codes[name])
    for name, quantizer in quantized.activation_quantizers().items():
        if not name.endswith(".grid"):
            assert torch.equal(quantizer.scale, before[name])


@pytest.mark.parametrize("ranges", RANGES)
def test_modulation_survives_a_checkpoint_to_the_last_bit(
    pipeline: Pipeline,
    quantized: QuantizedDenoiser,
    recipe: Recipe,
    tmp_path: Path,
    ranges: str,
) -> None:
    apply(pipeline, quantized, ranges)
    checkpoint.save(tmp_path, pipeline, quantized, recipe, model={}, environment={})
    loaded = checkpoint.load(tmp_path, device=CPU)
    assert checkpoint.probe(loaded.pipeline) == checkpoint.probe(pipeline)
    assert torch.equal(images(loaded.pipeline), images(pipeline))
    # Having sampled must not show in the probe.
    with torch.no_grad():
        quantized(torch.randn(2, 3, 8, 8), torch.full((2,), 1000))
    assert checkpoint.probe(loaded.pipeline) == checkpoint.probe(pipeline)


@pytest.mark.parametrize("ranges", RANGES)
def test_a_snapshot_restores_the_modulation(
    pipeline: Pipeline, quantized: QuantizedDenoiser, recipe: Recipe, ranges: str
) -> None:
    apply(pipeline, quantized, ranges)
    fresh = QuantizedDenoiser(tiny_unet(), recipe, num_timesteps=1000)
    state = state_of(quantized, snapshot=True)
    load_state(fresh, state, structure_of(quantized), snapshot=True)
    again = state_of(fresh, snapshot=True)
    assert structure_of(fresh) == structure_of(quantized)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_full_precision_is_full_precision(
    exact: Tensor, pipeline: Pipeline, quantized: QuantizedDenoiser
) -> None:
    apply(pipeline, quantized)
    with quantized.full_precision():
        torch.testing.assert_close(images(pipeline), exact)


@pytest.mark.parametrize("rule", ["ptqd", "affine"])
def test_a_modulated_denoiser_can_be_corrected(
    pipeline: Pipeline, quantized: QuantizedDenoiser, rule: str
) -> None:
    apply(pipeline, quantized)
    plain = images(pipeline)
    config = Correct.model_validate({"rule": rule, "num_samples": 40})
    report = correct.apply(
        pipeline, quantized, SPEC, config, seed=3, progress=lambda *_: None
    )
    # Only the first step has eight bits: the trajectories really were followed.
    errors = [float(str(step["error_before"])) for step in report]
    assert errors[1] != errors[0]
    assert not torch.equal(images(pipeline), plain)


def test_a_recipe_may_modulate_and_correct(pipeline: Pipeline, tmp_path: Path) -> None:
    recipe = resolve(
        Method(passes=(MIN_MAX, Modulate(num_samples=2), Correct(num_samples=2))),
        weight_bits=8,
        activation_bits=4,
        calibration=SPEC,
    )
    result = quantize(pipeline, recipe, progress=lambda *_: None)
    assert result.report["modulate"]["scale_ratio"]
    assert [step["t"] for step in result.report["correct"]] == [800, 600, 400, 200, 0]
    checkpoint.save(
        tmp_path, pipeline, result.denoiser, recipe, model={}, environment={}
    )
    loaded = checkpoint.load(tmp_path, device=CPU)
    assert torch.equal(images(loaded.pipeline), images(pipeline))


def test_one_step_has_no_differences(
    pipeline: Pipeline, quantized: QuantizedDenoiser
) -> None:
    spec = SPEC.model_copy(update={"num_steps": 1})
    with pytest.raises(CalibrationFailed, match="two steps"):
        modulate.apply(
            pipeline, quantized, spec, Modulate(), seed=0, progress=lambda *_: None
        )


def test_infinite_inputs_name_the_layer(
    pipeline: Pipeline, quantized: QuantizedDenoiser
) -> None:
    quantized.unet.mid_block.resnets[1].norm2.bias.fill_(torch.inf)
    with pytest.raises(CalibrationFailed, match=r"mid_block\.resnets\.1\.conv2"):
        apply(pipeline, quantized)

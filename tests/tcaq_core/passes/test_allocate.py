from pathlib import Path

import pytest
import torch
from torch import Tensor

from tcaq_core import checkpoint
from tcaq_core.calibration import CalibrationSet
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.diffusion import Pipeline
from tcaq_core.errors import CalibrationFailed, ModelUnsupported
from tcaq_core.passes import allocate
from tcaq_core.quantization import quantize
from tcaq_core.recipe import Allocate, FitRanges, Method, Override, Recipe, resolve
from tcaq_core.sensitivity import Costs, multiplications, rounded
from tests.tcaq_core.conftest import SPEC

CPU = torch.device("cpu")


def run(
    pipeline: Pipeline,
    data: CalibrationSet,
    config: Allocate,
    *,
    overrides: tuple[Override, ...] = (),
) -> tuple[QuantizedDenoiser, dict[str, object]]:
    recipe = recipe_of(config, overrides)
    denoiser = QuantizedDenoiser(pipeline.denoiser, recipe, num_timesteps=1000)
    report = allocate.apply(
        pipeline, denoiser, data, recipe, config, progress=lambda *_: None
    )
    return denoiser, report


def recipe_of(config: Allocate, overrides: tuple[Override, ...] = ()) -> Recipe:
    return resolve(
        Method(passes=(config, FitRanges()), overrides=overrides),
        weight_bits=4,
        activation_bits=8,
        calibration=SPEC,
    )


def mean_bits(denoiser: QuantizedDenoiser, data: CalibrationSet) -> float:
    macs = multiplications(denoiser, data)
    spent = {n: layer.bits.weight_bits for n, layer in denoiser.quant_layers()}
    return sum(macs[n] * b for n, b in spent.items()) / sum(macs.values())


def weights_of(denoiser: QuantizedDenoiser) -> dict[str, Tensor]:
    return {n: layer.full_weight().clone() for n, layer in denoiser.quant_layers()}


def test_the_budget_is_met_and_nothing_but_weight_bits_changes(
    pipeline: Pipeline, data: CalibrationSet
) -> None:
    config = Allocate(average_weight_bits=4.5, candidates=(3, 4, 8), num_inputs=4)
    recipe = recipe_of(config)
    denoiser = QuantizedDenoiser(pipeline.denoiser, recipe, num_timesteps=1000)
    before = weights_of(denoiser)
    with torch.no_grad():
        exact = denoiser(data.x_t[:4], data.t[:4])
    allocate.apply(pipeline, denoiser, data, recipe, config, progress=lambda *_: None)
    assert 4.0 < mean_bits(denoiser, data) <= 4.5
    for name, layer in denoiser.quant_layers():
        assert torch.equal(layer.full_weight(), before[name])
        assert layer.bits.activation_bits == 8
        assert layer.bits.weight_bits in {3, 4, 8}
        assert not layer.is_active
    with torch.no_grad():
        assert torch.equal(denoiser(data.x_t[:4], data.t[:4]), exact)


def test_a_budget_out_of_reach_names_the_least_mean(
    pipeline: Pipeline, data: CalibrationSet
) -> None:
    config = Allocate(average_weight_bits=2.5, candidates=(3, 4), num_inputs=1)
    with pytest.raises(ModelUnsupported, match=r"3\.00 bits over 5 is the least"):
        run(pipeline, data, config)


def test_the_cheapest_drops_are_taken_first() -> None:
    costs = Costs(
        macs={"big": 100, "small": 10},
        errors={
            "big": {4: 1.0, 8: 0.0},  # 1/400 per bit operation
            "small": {4: 1.0, 8: 0.0},  # 1/40
        },
    )
    assert allocate.spend(costs, 8.0) == {"big": 8, "small": 8}
    assert allocate.spend(costs, 7.0) == {"big": 4, "small": 8}
    assert allocate.spend(costs, 4.0) == {"big": 4, "small": 4}
    assert allocate.spend(costs, 3.9) is None


def test_multiplications_are_counted_for_convolutions_and_linears(
    pipeline: Pipeline, data: CalibrationSet, recipe: Recipe
) -> None:
    denoiser = QuantizedDenoiser(pipeline.denoiser, recipe, num_timesteps=1000)
    macs = multiplications(denoiser, data)
    layers = dict(denoiser.quant_layers())
    first = "down_blocks.0.resnets.0.conv1"
    assert macs[first] == 8 * 8 * 16 * 16 * 9
    linear = "down_blocks.0.resnets.0.time_emb_proj"
    assert macs[linear] == layers[linear].shape[0] * layers[linear].shape[1]


def test_overrides_keep_the_bits_that_they_name(
    pipeline: Pipeline, data: CalibrationSet
) -> None:
    config = Allocate(average_weight_bits=5, candidates=(3, 8), num_inputs=2)
    overrides = (Override(match="mid_block.*", weight_bits=6),)
    denoiser, _ = run(pipeline, data, config, overrides=overrides)
    bits = {n: layer.bits.weight_bits for n, layer in denoiser.quant_layers()}
    assert {b for n, b in bits.items() if n.startswith("mid_block.")} == {6}
    assert {b for n, b in bits.items() if not n.startswith("mid_block.")} == {3, 8}


def test_what_an_override_raises_the_other_layers_do_not_pay_for(
    pipeline: Pipeline, data: CalibrationSet
) -> None:
    # A guard raises bits by overrides: nothing else may lose its own to them.
    config = Allocate(average_weight_bits=4, candidates=(3, 4, 8), num_inputs=2)
    overrides = (Override(match="*conv*", weight_bits=8),)
    denoiser, report = run(pipeline, data, config, overrides=overrides)
    macs = multiplications(denoiser, data)
    bits = {n: layer.bits.weight_bits for n, layer in denoiser.quant_layers()}
    others = [name for name in bits if "conv" not in name]
    assert {bits[name] for name in bits if "conv" in name} == {8}
    spent = sum(macs[n] * bits[n] for n in others) / sum(macs[n] for n in others)
    assert 3.5 < spent <= 4
    chosen = report["chosen"]
    assert isinstance(chosen, dict)
    assert chosen["mean_weight_bits"] == pytest.approx(mean_bits(denoiser, data))


def test_where_every_layer_s_bits_are_named_nothing_is_chosen(
    pipeline: Pipeline, data: CalibrationSet
) -> None:
    config = Allocate(average_weight_bits=4, num_inputs=2)
    overrides = (Override(match="*", weight_bits=8),)
    denoiser, _ = run(pipeline, data, config, overrides=overrides)
    assert {layer.bits.weight_bits for _, layer in denoiser.quant_layers()} == {8}


def test_sampler_lengths_share_one_budget(
    pipeline: Pipeline, data: CalibrationSet
) -> None:
    # 5 steps at 3 bits: 2 steps afford 7.5, 4 afford 3.75, 10 afford only 1.5.
    config = Allocate(
        average_weight_bits=3, candidates=(3, 4, 8), steps=(2, 4, 10), num_inputs=2
    )
    denoiser, report = run(pipeline, data, config)
    plans = report["plans"]
    assert isinstance(plans, list)
    assert [plan["num_steps"] for plan in plans] == [2, 4]
    for plan in plans:
        assert plan["mean_weight_bits"] * plan["num_steps"] <= 15 + 1e-9
    best = min(plans, key=lambda plan: plan["image_error"])
    assert denoiser.recommended_steps == best["num_steps"]
    assert mean_bits(denoiser, data) == pytest.approx(best["mean_weight_bits"])


def test_the_chosen_length_and_bits_are_in_the_checkpoint(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    config = Allocate(
        average_weight_bits=3, candidates=(3, 8), steps=(4,), num_inputs=2
    )
    recipe = recipe_of(config)
    result = quantize(pipeline, recipe, progress=lambda *_: None)
    manifest = checkpoint.save(
        tmp_path, pipeline, result.denoiser, recipe, model={}, environment={}
    )
    loaded = checkpoint.load(tmp_path, device=CPU)
    assert manifest.structure.recommended_steps == 4
    assert loaded.denoiser.recommended_steps == 4
    assert len({e.weight_bits for e in manifest.structure.layers.values()}) == 2
    assert checkpoint.probe(loaded.pipeline) == checkpoint.probe(pipeline)


def test_weights_that_are_nan_name_the_pass(
    pipeline: Pipeline, data: CalibrationSet
) -> None:
    pipeline.denoiser.conv_in.weight.fill_(torch.nan)
    config = Allocate(average_weight_bits=4, candidates=(3, 8), num_inputs=1)
    with pytest.raises(CalibrationFailed, match="NaN"):
        run(pipeline, data, config)


def test_rounding_has_the_bits_that_were_asked_for(generator: torch.Generator) -> None:
    weight = torch.randn(4, 3, 3, 3, generator=generator)
    for bits in (2, 4, 8):
        for row in rounded(weight, num_bits=bits):
            assert len(row.unique()) <= 2**bits
    errors = [
        float((rounded(weight, num_bits=b) - weight).square().sum()) for b in (2, 4, 8)
    ]
    assert errors == sorted(errors, reverse=True)

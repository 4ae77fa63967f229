import pytest
import torch

from tcaq_core.calibration import CalibrationSet
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.errors import CalibrationFailed
from tcaq_core.functional import dequantize
from tcaq_core.observation import observe
from tcaq_core.passes import fit_ranges
from tcaq_core.ranges import Criterion, choose_range
from tcaq_core.recipe import FitRanges


def test_fit_ranges_touches_quantizer_parameters_only(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    weights = {n: w.full_weight().clone() for n, w in denoiser.quant_layers()}
    with denoiser.full_precision():
        before = denoiser(data.x_t, data.t)
    fit_ranges.apply(denoiser, data, FitRanges(), generator=generator)
    with denoiser.full_precision():
        after = denoiser(data.x_t, data.t)
    assert torch.equal(before, after)
    for name, layer in denoiser.quant_layers():
        assert torch.equal(layer.full_weight(), weights[name])
        assert not layer.is_rescaled


def test_fitting_activates_everything(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    exact = denoiser(data.x_t, data.t)
    fit_ranges.apply(denoiser, data, FitRanges(), generator=generator)
    assert all(layer.is_active for _, layer in denoiser.quant_layers())
    assert all(q.is_active for q in denoiser.activation_quantizers().values())
    assert all(p.softmax_quantizer.is_active for _, _, p in denoiser.attentions())
    assert not torch.equal(denoiser(data.x_t, data.t), exact)


def test_the_mse_search_never_loses_to_min_max(denoiser: QuantizedDenoiser) -> None:
    for name, layer in denoiser.quant_layers():
        errors = []
        for how in ("min_max", "mse"):
            fit_ranges.fit_weight(name, layer, FitRanges(weight=how))
            weight_hat = dequantize(layer.codes(), layer.weight_params)
            error = (weight_hat - layer.full_weight()).abs().pow(2.4)
            errors.append(error.flatten(1).mean(1))
        assert bool((errors[1] <= errors[0] * (1 + 1e-5)).all()), name


def test_min_max_covers_everything_seen(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    config = FitRanges(activation="min_max")
    fit_ranges.apply(denoiser, data, config, generator=generator)
    quantizers = denoiser.activation_quantizers()
    seen = observe(denoiser, data, quantizers, generator=generator)
    for name, quantizer in quantizers.items():
        top = (2**quantizer.num_bits - 1 - quantizer.zero_point) * quantizer.scale
        high = float(seen[name, 0].high.amax())
        assert float(top) >= high - float(quantizer.scale)
        bottom = -quantizer.zero_point * quantizer.scale
        low = float(seen[name, 0].low.amin())
        assert float(bottom) <= low + float(quantizer.scale)


def test_each_step_may_have_ranges_of_its_own(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    config = FitRanges(activation="min_max", timesteps="step")
    fit_ranges.apply(denoiser, data, config, generator=generator)
    quantizers = denoiser.activation_quantizers()
    seen = observe(denoiser, data, quantizers, generator=generator)
    steps = denoiser.cursor.steps
    assert steps is not None
    assert steps.timesteps == tuple(sorted(set(data.t.tolist()), reverse=True))
    for name, quantizer in quantizers.items():
        shown = seen[name, 0]
        assert quantizer.scale.shape == (len(steps), 1)
        width = (shown.high.clamp(min=0) - shown.low.clamp(max=0))[:, None]
        assert torch.allclose(
            quantizer.scale, width / (2**quantizer.num_bits - 1), rtol=1e-5
        )


def test_ranges_by_step_are_at_least_as_close_as_shared_ones(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    quantizers = denoiser.activation_quantizers()
    coarser = []
    for how in ("shared", "step"):
        config = FitRanges.model_validate({"activation": "min_max", "timesteps": how})
        fit_ranges.apply(denoiser, data, config, generator=generator)
        coarser.append({name: q.scale.amax() for name, q in quantizers.items()})
    for name, shared in coarser[0].items():
        assert float(coarser[1][name]) <= float(shared) * (1 + 1e-6)


def test_a_split_layer_is_fitted_part_by_part(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    name = "up_blocks.1.resnets.0.conv_shortcut"
    layer = dict(denoiser.quant_layers())[name]
    channels = layer.shape[1]
    layer.split_input((16, channels - 16))
    fit_ranges.apply(denoiser, data, FitRanges(), generator=generator)
    assert layer.weight_scale.shape == (layer.shape[0], 2)
    assert layer.input_quantizer is not None
    assert layer.input_quantizer.scale.shape == (1, 2)
    assert bool(torch.isfinite(denoiser(data.x_t, data.t)).all())


@pytest.mark.parametrize("how", ["percentile", "mse"])
def test_a_search_cuts_off_a_lone_outlier(how: Criterion) -> None:
    values = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    values[0] = 60.0
    _, high = choose_range(values, values.amin(), values.amax(), how, num_bits=4)
    assert float(high) < 30


def test_nan_weights_are_refused_by_name(denoiser: QuantizedDenoiser) -> None:
    name, layer = next(iter(denoiser.quant_layers()))
    layer.full_weight()[0] = torch.nan
    with pytest.raises(CalibrationFailed, match=name):
        fit_ranges.fit_weight(name, layer, FitRanges())


def test_nan_activations_are_refused_by_name(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    data.x_t[0] = torch.nan
    with pytest.raises(CalibrationFailed, match="NaN"):
        fit_ranges.apply(denoiser, data, FitRanges(), generator=generator)


def test_steps_share_at_most_as_many_grids_as_asked_for(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    config = FitRanges(activation="min_max", timesteps="groups", num_groups=3)
    fit_ranges.apply(denoiser, data, config, generator=generator)
    steps = denoiser.cursor.steps
    assert steps is not None
    for quantizer in denoiser.activation_quantizers().values():
        assert quantizer.row_of_step is not None
        used = set(quantizer.row_of_step.tolist())
        assert len(quantizer.row_of_step) == len(steps)
        assert used == set(range(len(quantizer.scale)))
        assert len(used) <= 3
    assert bool(torch.isfinite(denoiser(data.x_t, data.t)).all())


def test_a_learned_function_is_tabulated_by_step(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    layer = dict(denoiser.quant_layers())["up_blocks.1.resnets.0.conv_shortcut"]
    layer.split_input((16, layer.shape[1] - 16))
    config = FitRanges(activation="min_max", timesteps="function")
    fit_ranges.apply(denoiser, data, config, generator=generator)
    steps = denoiser.cursor.steps
    assert steps is not None
    for name, quantizer in denoiser.activation_quantizers().items():
        parts = 2 if "conv_shortcut" in name and quantizer.parts else 1
        assert quantizer.scale.shape == (len(steps), parts)
        assert bool(torch.isfinite(quantizer.scale).all())
        assert bool((quantizer.scale > 0).all())
        top = 2**quantizer.num_bits - 1
        assert bool((quantizer.zero_point >= 0).all())
        assert bool((quantizer.zero_point <= top).all())

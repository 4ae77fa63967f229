import pytest
import torch

from tcaq_core.calibration import CalibrationSet
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.errors import CalibrationFailed
from tcaq_core.functional import dequantize
from tcaq_core.passes import fit_ranges
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
    seen = fit_ranges.observe(denoiser, data, quantizers, generator=generator)
    for name, quantizer in quantizers.items():
        top = (2**quantizer.num_bits - 1 - quantizer.zero_point) * quantizer.scale
        assert float(top) >= float(seen[name].high) - float(quantizer.scale)
        bottom = -quantizer.zero_point * quantizer.scale
        assert float(bottom) <= float(seen[name].low) + float(quantizer.scale)


@pytest.mark.parametrize("how", ["percentile", "mse"])
def test_a_search_cuts_off_a_lone_outlier(how: str) -> None:
    values = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    values[0] = 60.0
    seen = fit_ranges.Seen(values.amin(), values.amax(), [values])
    config = FitRanges.model_validate({"activation": how})
    _, high = fit_ranges.choose_range(seen, config, num_bits=4)
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

import pytest
import torch

from tcaq_core.calibration import CalibrationSet
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.errors import CalibrationFailed
from tcaq_core.evaluation.paired import relative_mse
from tcaq_core.passes import fit_ranges, second_order
from tcaq_core.recipe import FitRanges, SecondOrder


def fitted(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> QuantizedDenoiser:
    fit_ranges.apply(denoiser, data, FitRanges(), generator=generator)
    return denoiser


def run(
    denoiser: QuantizedDenoiser,
    data: CalibrationSet,
    generator: torch.Generator,
    *,
    compensate: bool = True,
) -> list[dict[str, object]]:
    config = SecondOrder(num_inputs=20, compensate=compensate)
    return second_order.apply(
        denoiser, data, config, generator=generator, progress=lambda *_: None
    )


@pytest.mark.parametrize("compensate", [True, False])
def test_no_layer_answers_worse_than_with_the_rounding_it_had(
    denoiser: QuantizedDenoiser,
    data: CalibrationSet,
    generator: torch.Generator,
    *,
    compensate: bool,
) -> None:
    report = run(
        fitted(denoiser, data, generator), data, generator, compensate=compensate
    )
    assert {row["layer"] for row in report} == {n for n, _ in denoiser.quant_layers()}
    for row in report:
        before, after = row["error_before"], row["error_after"]
        assert isinstance(before, float)
        assert isinstance(after, float)
        assert after <= before
    assert any(row["error_after"] != row["error_before"] for row in report)


@torch.no_grad()
def test_the_predicted_noise_gets_better_and_full_precision_stays(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    exact = denoiser(data.x_t, data.t)
    fitted(denoiser, data, generator)
    before = relative_mse(denoiser(data.x_t, data.t), exact)
    run(denoiser, data, generator)
    assert relative_mse(denoiser(data.x_t, data.t), exact) < 0.6 * before
    with denoiser.full_precision():
        assert torch.equal(denoiser(data.x_t, data.t), exact)


def test_the_same_seed_gives_the_same_codes(
    denoiser: QuantizedDenoiser, data: CalibrationSet
) -> None:
    codes = []
    for _ in range(2):
        fitted(denoiser, data, torch.Generator().manual_seed(0))
        for _, layer in denoiser.quant_layers():
            layer.bias_hat = layer.weight_target = None
        run(denoiser, data, torch.Generator().manual_seed(1))
        codes.append([layer.codes().clone() for _, layer in denoiser.quant_layers()])
    for a, b in zip(*codes, strict=True):
        assert torch.equal(a, b)


def test_inputs_without_a_covariance_name_the_layer(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    name, layer = next(iter(denoiser.quant_layers()))
    fitted(denoiser, data, generator)
    columns = layer.full_weight()[0].numel()
    x_hat = torch.full((8, columns), torch.nan)
    y = torch.zeros(8, layer.shape[0])
    with pytest.raises(CalibrationFailed, match=name):
        second_order.round_layer(name, layer, x_hat, y, SecondOrder())


def test_a_rounding_that_answers_worse_is_not_taken(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    name, layer = next(iter(fitted(denoiser, data, generator).quant_layers()))
    codes = layer.codes().clone()
    x_hat = torch.randn(256, codes[0].numel(), generator=generator)
    # What the layer answers with the codes that it has: nothing can be better.
    params = layer.weight_params
    weight_hat = ((codes - params.zero_point) * params.scale).flatten(1)
    y = x_hat @ weight_hat.T + (0 if layer.bias is None else layer.bias)
    found = second_order.round_layer(
        name, layer, x_hat, y, SecondOrder(compensate=False)
    )
    assert found.error_before < 1e-10
    assert torch.equal(layer.codes(), codes)
    assert layer.bias_hat is None
    assert layer.weight_target is None

import pytest
import torch
from torch import nn

from tcaq_core.calibration import CalibrationSet
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.layers import QuantConv2d
from tcaq_core.passes import fit_ranges, tcr
from tcaq_core.recipe import TCR, FitRanges, LayerBits


def test_tcr_preserves_the_full_precision_function(
    denoiser: QuantizedDenoiser, data: CalibrationSet
) -> None:
    before = denoiser(data.x_t, data.t)
    tcr.apply(denoiser, data, TCR())
    after = denoiser(data.x_t, data.t)
    assert torch.allclose(after, before, atol=1e-5)
    factors = [layer.input_rescale for _, layer in denoiser.quant_layers()]
    assert any(float((r - 1).abs().max()) > 0.1 for r in factors)


def test_tcr_touches_convolutions_only(
    denoiser: QuantizedDenoiser, data: CalibrationSet
) -> None:
    tcr.apply(denoiser, data, TCR())
    for _, layer in denoiser.quant_layers():
        assert layer.is_rescaled == isinstance(layer, QuantConv2d)


def test_factors_even_out_the_channels(
    denoiser: QuantizedDenoiser, data: CalibrationSet
) -> None:
    before = tcr.channel_ranges(denoiser, data, num_groups=1)
    tcr.apply(denoiser, data, TCR(num_groups=1, target="min"))
    layers = dict(denoiser.quant_layers())
    for name, ranges in before.items():
        after = ranges[0] / layers[name].input_rescale
        assert float(after.std() / after.mean()) < 1e-3


def test_truncation_bounds_the_factors() -> None:
    ranges = torch.tensor([[0.01, 1.0, 100.0]])
    r = tcr.factors(ranges, TCR(truncation=3.0, target="mean"))
    assert r.tolist() == [1 / 3.0, 1 / 3.0, 3.0] or float(r.max()) <= 3.0
    assert float(r.min()) >= 1 / 3.001
    assert float(tcr.factors(ranges, TCR(target="mean")).max()) > 2.9


def test_strength_interpolates_between_nothing_and_the_paper() -> None:
    ranges = torch.tensor([[1.0, 4.0]])
    assert tcr.factors(ranges, TCR(target="min")).tolist() == [1.0, 4.0]
    assert tcr.factors(ranges, TCR(target="min", strength=0.5)).tolist() == [1.0, 2.0]
    assert tcr.factors(ranges, TCR(target="min", strength=0.0)).tolist() == [1.0, 1.0]


def test_a_dead_channel_gets_a_finite_factor() -> None:
    ranges = torch.tensor([[0.0, 1.0, 2.0]])
    r = tcr.factors(ranges, TCR(target="min"))
    assert bool(torch.isfinite(r).all())
    assert float(r.min()) > 0


@pytest.mark.parametrize("bits", [4, 8])
def test_factors_help_when_wide_channels_drown_the_others(
    generator: torch.Generator, bits: int
) -> None:
    """One channel a hundred times wider than the rest, with weights as much smaller."""
    scale = torch.tensor([1.0, 1.0, 1.0, 100.0])
    x = torch.randn(2, 4, 8, 8, generator=generator) * scale[:, None, None]
    conv = nn.Conv2d(4, 6, 3).requires_grad_(requires_grad=False)
    conv.weight.data = torch.randn(6, 4, 3, 3, generator=generator)
    conv.weight.data /= scale[:, None, None]

    def error(*, with_tcr: bool) -> float:
        layer = QuantConv2d(
            conv, LayerBits.model_validate({"weight_bits": 8, "activation_bits": bits})
        )
        if with_tcr:
            peak = x.abs().amax(dim=(0, 2, 3))[None]
            layer.rescale_input(tcr.factors(peak, TCR()))
        fit_ranges.fit_weight("conv", layer, FitRanges())
        seen = layer.normalize_input(x)
        assert layer.input_quantizer is not None
        layer.input_quantizer.fit(seen.amin(), seen.amax())
        return float((layer(x) - conv(x)).square().mean())

    assert error(with_tcr=True) < 0.1 * error(with_tcr=False)

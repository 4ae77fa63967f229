import pytest
import torch
from torch import nn

from tcaq_core.layers import QuantConv2d, QuantLayer, QuantLinear
from tcaq_core.quantizers import NotCalibrated
from tcaq_core.recipe import LayerBits


def conv_layer(generator: torch.Generator, *, bits: int = 8) -> QuantConv2d:
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1)
    conv.weight.data = torch.randn(6, 4, 3, 3, generator=generator)
    return QuantConv2d(conv, LayerBits(weight_bits=bits, activation_bits=8))


def fit(layer: QuantLayer, x: torch.Tensor) -> None:
    weight = layer.full_weight().flatten(1)
    layer.fit_weight(weight.amin(1), weight.amax(1))
    assert layer.input_quantizer is not None
    seen = layer.normalize_input(x)
    layer.input_quantizer.fit(seen.amin(), seen.amax())


def test_a_new_layer_computes_what_it_replaced(generator: torch.Generator) -> None:
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1)
    linear = nn.Linear(5, 3)
    bits = LayerBits(weight_bits=4, activation_bits=8)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    y = torch.randn(2, 7, 5, generator=generator)
    assert torch.equal(QuantConv2d(conv, bits)(x), conv(x))
    assert torch.equal(QuantLinear(linear, bits)(y), linear(y))


def test_an_8_bit_layer_is_close_to_full_precision(generator: torch.Generator) -> None:
    layer = conv_layer(generator)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    exact = layer(x)
    fit(layer, x)
    relative = (layer(x) - exact).norm() / exact.norm()
    assert 0 < float(relative) < 0.02


def test_input_factors_change_the_codes_but_not_the_function(
    generator: torch.Generator,
) -> None:
    layer = conv_layer(generator)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    exact = layer(x)
    layer.rescale_input(torch.tensor([0.5, 1.0, 2.0, 8.0]))
    assert torch.allclose(layer(x), exact, atol=1e-5)
    assert float(layer.normalize_input(x)[0, 3, 0, 0]) == float(x[0, 3, 0, 0]) / 8


def test_factors_accumulate(generator: torch.Generator) -> None:
    layer = conv_layer(generator)
    factor = torch.tensor([2.0, 1.0, 1.0, 4.0])
    layer.rescale_input(factor)
    layer.rescale_input(factor)
    assert torch.equal(layer.input_rescale, factor * factor)


def test_quantized_execution_computes_with_the_committed_codes(
    generator: torch.Generator,
) -> None:
    layer = conv_layer(generator, bits=4)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    fit(layer, x)
    before = layer(x)
    layer.commit(torch.zeros_like(layer.codes()))
    assert not torch.equal(layer(x), before)
    assert int(layer.codes().max()) == 0


def test_soft_rounding_replaces_the_codes_until_the_next_commit(
    generator: torch.Generator,
) -> None:
    layer = conv_layer(generator, bits=4)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    fit(layer, x)
    hard = layer(x)
    rounding = layer.open_rounding()
    assert not torch.equal(layer(x), hard)
    layer.commit(rounding.codes())
    assert torch.equal(layer(x), hard)


def test_a_loaded_layer_has_no_full_weight(generator: torch.Generator) -> None:
    source = conv_layer(generator, bits=4)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    source.rescale_input(torch.tensor([0.5, 1.0, 2.0, 8.0]))
    fit(source, x)
    loaded = conv_layer(generator, bits=4)
    loaded.bias = source.bias
    loaded.load(
        source.codes(),
        scale=source.weight_scale,
        zero_point=source.weight_zero_point,
        input_rescale=source.input_rescale,
    )
    assert source.input_quantizer is not None
    assert loaded.input_quantizer is not None
    loaded.input_quantizer.load(
        source.input_quantizer.scale, source.input_quantizer.zero_point
    )
    assert torch.equal(loaded(x), source(x))
    with pytest.raises(NotCalibrated):
        loaded.full_weight()


def test_16_activation_bits_leave_the_input_alone() -> None:
    bits = LayerBits(weight_bits=4, activation_bits=16)
    assert QuantLinear(nn.Linear(2, 2), bits).input_quantizer is None


def test_codes_are_refused_before_there_are_any() -> None:
    layer = QuantLinear(nn.Linear(2, 2), LayerBits(weight_bits=4, activation_bits=8))
    with pytest.raises(NotCalibrated):
        layer.codes()
    layer.is_active = True
    with pytest.raises(NotCalibrated):
        layer(torch.zeros(1, 2))

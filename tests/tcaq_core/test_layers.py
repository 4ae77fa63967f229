import pytest
import torch
from torch import nn

from tcaq_core.layers import QuantConv2d, QuantLayer, QuantLinear
from tcaq_core.quantizers import NotCalibrated, UniformQuantizer
from tcaq_core.recipe import LayerBits
from tcaq_core.timesteps import TimestepCursor

CURSOR = TimestepCursor()
W4A8 = LayerBits(weight_bits=4, activation_bits=8)


def conv_layer(generator: torch.Generator, *, bits: int = 8) -> QuantConv2d:
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1)
    conv.weight.data = torch.randn(6, 4, 3, 3, generator=generator)
    layer_bits = LayerBits(weight_bits=bits, activation_bits=8)
    return QuantConv2d(conv, layer_bits, cursor=CURSOR)


def fit(layer: QuantLayer, x: torch.Tensor) -> None:
    pieces = [w.flatten(1) for w in layer.full_weight().split(layer.parts, dim=1)]
    layer.fit_weight(
        torch.stack([w.amin(1) for w in pieces], dim=1),
        torch.stack([w.amax(1) for w in pieces], dim=1),
    )
    assert isinstance(layer.input_quantizer, UniformQuantizer)
    seen = layer.normalize_input(x).split(layer.parts, dim=1)
    layer.input_quantizer.fit(
        torch.stack([piece.amin() for piece in seen])[None],
        torch.stack([piece.amax() for piece in seen])[None],
    )


def test_a_new_layer_computes_what_it_replaced(generator: torch.Generator) -> None:
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1)
    linear = nn.Linear(5, 3)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    y = torch.randn(2, 7, 5, generator=generator)
    assert torch.equal(QuantConv2d(conv, W4A8, cursor=CURSOR)(x), conv(x))
    assert torch.equal(QuantLinear(linear, W4A8, cursor=CURSOR)(y), linear(y))


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
    loaded.drop_full_weight(source.input_rescale)
    loaded.load(
        source.codes(),
        scale=source.weight_scale,
        zero_point=source.weight_zero_point,
    )
    assert isinstance(source.input_quantizer, UniformQuantizer)
    assert isinstance(loaded.input_quantizer, UniformQuantizer)
    loaded.input_quantizer.load(
        source.input_quantizer.scale, source.input_quantizer.zero_point
    )
    assert torch.equal(loaded(x), source(x))
    with pytest.raises(NotCalibrated):
        loaded.full_weight()


def test_16_activation_bits_leave_the_input_alone() -> None:
    bits = LayerBits(weight_bits=4, activation_bits=16)
    layer = QuantLinear(nn.Linear(2, 2), bits, cursor=CURSOR)
    assert layer.input_quantizer is None


def test_codes_are_refused_before_there_are_any() -> None:
    layer = QuantLinear(nn.Linear(2, 2), W4A8, cursor=CURSOR)
    with pytest.raises(NotCalibrated):
        layer.codes()
    layer.is_active = True
    with pytest.raises(NotCalibrated):
        layer(torch.zeros(1, 2))


def half(conv: nn.Conv2d, at: slice, bits: LayerBits, *, bias: bool) -> QuantConv2d:
    """Return the layer of some input channels alone."""
    weight = conv.weight[:, at]
    piece = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias=bias)
    piece.weight.data = weight.detach().clone()
    if bias and conv.bias is not None:
        piece.bias = conv.bias
    return QuantConv2d(piece, bits, cursor=CURSOR)


@pytest.mark.parametrize("weight_bits", [3, 4, 8])
def test_a_split_layer_is_the_sum_of_two_layers(
    generator: torch.Generator, weight_bits: int
) -> None:
    """Q(W) Q(X) := Q1(W1) Q1(X1) + Q2(W2) Q2(X2), Q-Diffusion section 4.2."""
    conv = nn.Conv2d(5, 6, 3, padding=1)
    conv.weight.data = torch.randn(6, 5, 3, 3, generator=generator)
    bits = LayerBits(weight_bits=weight_bits, activation_bits=4)
    x = torch.randn(2, 5, 8, 8, generator=generator)
    x[:, 2:] *= 10
    conv.weight.data[:, 2:] /= 10
    whole = QuantConv2d(conv, bits, cursor=CURSOR)
    whole.split_input((2, 3))
    left = half(conv, slice(0, 2), bits, bias=True)
    right = half(conv, slice(2, 5), bits, bias=False)
    for layer, seen in ((whole, x), (left, x[:, :2]), (right, x[:, 2:])):
        fit(layer, seen)
    assert torch.equal(whole.codes(), torch.cat([left.codes(), right.codes()], dim=1))
    assert torch.allclose(whole(x), left(x[:, :2]) + right(x[:, 2:]), atol=1e-5)


def test_splitting_helps_where_the_halves_differ(generator: torch.Generator) -> None:
    conv = nn.Conv2d(4, 6, 1)
    conv.weight.data = torch.randn(6, 4, 1, 1, generator=generator)
    conv.weight.data[:, 2:] /= 20
    x = torch.randn(2, 4, 8, 8, generator=generator)
    x[:, 2:] *= 20
    errors = []
    for parts in ((4,), (2, 2)):
        bits = LayerBits(weight_bits=4, activation_bits=4)
        layer = QuantConv2d(conv, bits, cursor=CURSOR)
        layer.split_input(parts)
        fit(layer, x)
        errors.append(float((layer(x) - conv(x)).detach().square().mean()))
    assert errors[1] < 0.2 * errors[0]


def test_a_split_changes_nothing_in_full_precision(generator: torch.Generator) -> None:
    layer = conv_layer(generator)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    exact = layer(x)
    layer.split_input((1, 3))
    assert torch.equal(layer(x), exact)


@pytest.mark.parametrize("parts", [(1, 2), (0, 4), (2, 2, 1)])
def test_parts_that_are_not_the_channels_are_refused(
    generator: torch.Generator, parts: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="4 channels"):
        conv_layer(generator).split_input(parts)


def test_other_bits_ask_for_other_grids(generator: torch.Generator) -> None:
    layer = conv_layer(generator)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    exact = layer(x)
    layer.split_input((1, 3))
    fit(layer, x)
    layer.change_bits(W4A8)
    assert torch.equal(layer(x), exact)
    with pytest.raises(NotCalibrated):
        layer.codes()
    assert isinstance(layer.input_quantizer, UniformQuantizer)
    assert layer.input_quantizer.parts == (1, 3)
    assert not layer.input_quantizer.is_fitted


def test_weight_grids_of_another_shape_are_refused(generator: torch.Generator) -> None:
    layer = conv_layer(generator)
    fit(layer, torch.randn(2, 4, 8, 8, generator=generator))
    codes = layer.codes()
    layer.split_input((2, 2))
    with pytest.raises(ValueError, match="weight grids"):
        layer.load(codes, scale=torch.ones(6, 1), zero_point=torch.zeros(6, 1))

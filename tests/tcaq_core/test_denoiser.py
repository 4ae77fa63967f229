import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from tcaq_core.attention import check_supported
from tcaq_core.calibration import CalibrationSet
from tcaq_core.denoiser import QuantizedDenoiser, quant_layers_in
from tcaq_core.errors import ModelUnsupported
from tcaq_core.passes import fit_ranges
from tcaq_core.recipe import FitRanges, Method, Override, Recipe, resolve
from tests.tiny import tiny_unet


def test_every_convolution_linear_and_attention_is_swapped_unless_skipped(
    denoiser: QuantizedDenoiser, recipe: Recipe
) -> None:
    left = [
        name
        for name, module in denoiser.unet.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    assert sorted(left) == sorted(recipe.method.skip)
    attentions = [m for m in denoiser.unet.modules() if isinstance(m, Attention)]
    assert attentions
    assert len(attentions) == len(list(denoiser.attentions()))


@pytest.mark.parametrize("heads", [1, 4])
def test_the_swapped_denoiser_computes_the_same_function(
    recipe: Recipe, generator: torch.Generator, heads: int
) -> None:
    unet = tiny_unet(attention_heads=heads)
    x_t = torch.randn(3, 3, 8, 8, generator=generator)
    t = torch.tensor([3, 500, 999])
    exact = unet(x_t, t).sample
    denoiser = QuantizedDenoiser(unet, recipe, num_timesteps=1000)
    assert torch.allclose(denoiser(x_t, t), exact, atol=1e-5)


def test_full_precision_restores_each_state_also_after_an_error(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    fit_ranges.apply(denoiser, data, FitRanges(), generator=generator)
    first = next(layer for _, layer in denoiser.quant_layers())
    first.is_active = False
    states = [layer.is_active for _, layer in denoiser.quant_layers()]
    with denoiser.full_precision():
        assert not any(layer.is_active for _, layer in denoiser.quant_layers())
    assert [layer.is_active for _, layer in denoiser.quant_layers()] == states
    with pytest.raises(RuntimeError), denoiser.full_precision():
        denoiser(data.x_t[:, :1], data.t)  # one channel where three are needed
    assert [layer.is_active for _, layer in denoiser.quant_layers()] == states


def test_blocks_cover_every_quantized_layer_exactly_once(
    denoiser: QuantizedDenoiser,
) -> None:
    blocks = denoiser.blocks()
    inside = [
        id(layer)
        for block in blocks.values()
        for layer in quant_layers_in(block).values()
    ]
    assert len(inside) == len(set(inside))
    assert set(inside) == {id(layer) for _, layer in denoiser.quant_layers()}


def test_overrides_reach_their_layers(tiny_recipe_with_override: Recipe) -> None:
    denoiser = QuantizedDenoiser(
        tiny_unet(), tiny_recipe_with_override, num_timesteps=1000
    )
    by_name = dict(denoiser.quant_layers())
    assert by_name["mid_block.resnets.0.conv1"].bits.weight_bits == 8
    assert by_name["down_blocks.0.resnets.0.conv1"].bits.weight_bits == 4


@pytest.fixture
def tiny_recipe_with_override() -> Recipe:
    method = Method(
        passes=(FitRanges(),),
        overrides=(Override(match="mid_block.*", weight_bits=8),),
    )
    return resolve(method, weight_bits=4, activation_bits=8)


def test_a_skip_list_that_matches_everything_is_refused() -> None:
    recipe = resolve(
        Method(passes=(FitRanges(),), skip=("*",)), weight_bits=4, activation_bits=8
    )
    with pytest.raises(ModelUnsupported, match="No layer"):
        QuantizedDenoiser(tiny_unet(), recipe, num_timesteps=1000)


@pytest.mark.parametrize("where", ["skip", "overrides"])
def test_a_pattern_that_matches_nothing_is_refused(where: str) -> None:
    patterns = {"skip": ["mid_blok.*"], "overrides": [{"match": "mid_blok.*"}]}
    method = Method.model_validate(
        {"passes": [{"kind": "fit_ranges"}], where: patterns[where]}
    )
    recipe = resolve(method, weight_bits=4, activation_bits=8)
    with pytest.raises(ModelUnsupported, match="mid_blok"):
        QuantizedDenoiser(tiny_unet(), recipe, num_timesteps=1000)


def test_everything_new_lives_where_the_model_is(recipe: Recipe) -> None:
    """The meta device stands in for a GPU: a tensor left on the CPU shows."""
    unet = tiny_unet().to("meta")
    denoiser = QuantizedDenoiser(unet, recipe, num_timesteps=1000)
    tensors = [*denoiser.unet.buffers(), *denoiser.unet.parameters()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_grouped_convolutions_are_refused_by_name(recipe: Recipe) -> None:
    unet = tiny_unet()
    unet.set_submodule("mid_block.resnets.0.conv1", nn.Conv2d(32, 32, 3, groups=2))
    with pytest.raises(ModelUnsupported, match=r"mid_block\.resnets\.0\.conv1"):
        QuantizedDenoiser(unet, recipe, num_timesteps=1000)


def test_cross_attention_is_refused_by_name() -> None:
    cross = Attention(query_dim=8, cross_attention_dim=4, heads=1, dim_head=8)
    with pytest.raises(ModelUnsupported, match=r"up.*cross-attention"):
        check_supported("up", cross)


def test_a_quantized_layer_never_runs_on_another_batch_s_timestep(
    denoiser: QuantizedDenoiser, data: CalibrationSet
) -> None:
    denoiser(data.x_t[:1], data.t[:1])
    with pytest.raises(RuntimeError, match="outside"):
        _ = denoiser.cursor.t

import pytest
import torch

from tcaq_core.calibration import CalibrationSet, watching
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.errors import ModelUnsupported
from tcaq_core.passes import fit_ranges, split
from tcaq_core.recipe import FitRanges, Method, resolve
from tests.tiny import tiny_unet

RECIPE = resolve(
    Method(passes=(FitRanges(),), skip=("conv_in",)), weight_bits=4, activation_bits=4
)

# Level 1 has 32 channels and level 0 has 16; a block's first resnet reads the channels
# of the level below.
PARTS = {
    "up_blocks.0.resnets.0.conv_shortcut": [32, 32],
    "up_blocks.0.resnets.1.conv_shortcut": [32, 16],
    "up_blocks.1.resnets.0.conv_shortcut": [32, 16],
    "up_blocks.1.resnets.1.conv_shortcut": [16, 16],
}


def denoiser_that_skips(*patterns: str) -> QuantizedDenoiser:
    method = Method(passes=(FitRanges(),), skip=patterns)
    recipe = resolve(method, weight_bits=4, activation_bits=4)
    return QuantizedDenoiser(tiny_unet(), recipe, num_timesteps=1000)


def test_splitting_preserves_the_full_precision_function(
    denoiser: QuantizedDenoiser, data: CalibrationSet
) -> None:
    before = denoiser(data.x_t, data.t)
    assert split.apply(denoiser, data) == PARTS
    assert torch.equal(denoiser(data.x_t, data.t), before)


def test_every_shortcut_of_the_up_blocks_is_split_and_nothing_else(
    denoiser: QuantizedDenoiser, data: CalibrationSet
) -> None:
    split.apply(denoiser, data)
    for name, layer in denoiser.quant_layers():
        assert list(layer.parts) == PARTS.get(name, [layer.shape[1]])


def test_the_halves_are_the_two_feature_maps(
    denoiser: QuantizedDenoiser, data: CalibrationSet
) -> None:
    """The second half of the last shortcut's input is the very first feature map."""
    seen: dict[str, torch.Tensor] = {}
    unet = denoiser.unet
    last = unet.get_submodule("up_blocks.1.resnets.1.conv_shortcut")
    unet.conv_in.register_forward_hook(lambda _m, _a, out: seen.update(first=out))
    last.register_forward_pre_hook(lambda _m, args: seen.update(read=args[0]))
    split.apply(denoiser, data)
    hidden = PARTS["up_blocks.1.resnets.1.conv_shortcut"][0]
    assert torch.equal(seen["read"][:, hidden:], seen["first"])


def test_a_shortcut_in_full_precision_is_left_alone(data: CalibrationSet) -> None:
    denoiser = denoiser_that_skips("up_blocks.0.*")
    assert set(split.apply(denoiser, data)) == {n for n in PARTS if "blocks.1" in n}


def test_a_model_without_such_a_layer_gives_an_empty_report(
    data: CalibrationSet,
) -> None:
    denoiser = denoiser_that_skips("up_blocks.*.conv_shortcut")
    assert split.apply(denoiser, data) == {}


def test_an_input_that_is_no_concatenation_is_refused_by_name() -> None:
    x, skip = torch.zeros(1, 4, 2, 2), torch.ones(1, 2, 2, 2)
    for other in (skip, None, x):
        with pytest.raises(ModelUnsupported, match="conv_shortcut"):
            split.boundary("up_blocks.0.resnets.0.conv_shortcut", x, other)
    together = torch.cat([x, skip], dim=1)
    assert split.boundary("a", together, skip) == (4, 2)


def shortcut_error(
    data: CalibrationSet, generator: torch.Generator, *, splits: bool
) -> float:
    """Return the last shortcut's error where the first feature map is very wide."""
    unet = tiny_unet()
    with torch.no_grad():
        unet.conv_in.weight *= 30
    denoiser = QuantizedDenoiser(unet, RECIPE, num_timesteps=1000)
    if splits:
        split.apply(denoiser, data)
    config = FitRanges(weight="min_max", activation="min_max")
    fit_ranges.apply(denoiser, data, config, generator=generator)
    layer = dict(denoiser.quant_layers())["up_blocks.1.resnets.1.conv_shortcut"]
    read: list[torch.Tensor] = []
    with watching({"shortcut": layer}, lambda _, x: read.append(x)):
        denoiser(data.x_t, data.t)
    with denoiser.full_precision():
        exact = layer(read[0])
    return float((layer(read[0]) - exact).square().mean())


def test_splitting_lowers_the_error_of_a_shortcut_whose_halves_differ(
    data: CalibrationSet, generator: torch.Generator
) -> None:
    together = shortcut_error(data, generator, splits=False)
    assert shortcut_error(data, generator, splits=True) < 0.8 * together

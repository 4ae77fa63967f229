"""What a denoiser can be given that a sampler seldom gives it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor

from tcaq_core import checkpoint
from tcaq_core.recipe import CalibrationSpec, FitRanges, Method, Modulate, resolve
from tcaq_core.runtime.integer import _one_by_one, compile_integer
from tcaq_core.runtime.integer_blocks import IntegerResnet
from tcaq_core.runtime.integer_layer import IntegerLayer
from tests.tcaq_core.runtime.pairs import Quantized

Make = Callable[..., Quantized]

SPEC = CalibrationSpec(num_samples=4, num_steps=5, seed=0)
MODULATED = Method(passes=(FitRanges(), Modulate()))


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def compiled(make: Make, preset: str | Method = "rtn") -> Quantized:
    quantized = make(preset)
    assert compile_integer(quantized.denoiser).kind == "integer"
    return quantized


@torch.no_grad()
def test_a_block_reads_images_of_either_layout(make: Make) -> None:
    """diffusers hands on channels first what it resized in a batch of 64 or more."""
    unet = compiled(make).denoiser.unet
    resnet = unet.mid_block.resnets[0]
    assert isinstance(resnet, IntegerResnet)
    x, temb = noise(0, 2, 32, 4, 4), noise(1, 2, 64)
    turned = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(resnet(x, temb), resnet(turned, temb))
    pieces, same = x.split((16, 16), dim=1), turned.split((16, 16), dim=1)
    conv = resnet.conv1
    assert torch.equal(conv.quantize(pieces)[0], conv.quantize(same)[0])


def test_a_layer_reads_the_tokens_of_a_single_image(make: Make) -> None:
    """Channels first they are rows with a stride: no reshape makes a copy of them."""
    unet = compiled(make).denoiser.unet
    layer = unet.mid_block.attentions[0].to_q
    assert isinstance(layer, IntegerLayer)
    tokens = noise(0, 1, 32, 16).transpose(1, 2)
    assert not tokens.reshape(-1, 32).is_contiguous()
    assert torch.equal(layer(tokens), layer(tokens.contiguous()))


def test_a_denoiser_is_compiled_once(make: Make) -> None:
    quantized = compiled(make)
    with pytest.raises(ValueError, match="once"):
        compile_integer(quantized.denoiser)


def test_what_is_compiled_in_inference_mode_runs_outside_of_it(make: Make) -> None:
    quantized, x = make("rtn"), noise(0, 2, 3, 8, 8)
    with torch.inference_mode():
        compile_integer(quantized.denoiser)
        inside = quantized.denoiser.unet(x, 5, return_dict=False)[0]
    assert torch.equal(quantized.denoiser.unet(x, 5, return_dict=False)[0], inside)


def test_what_is_compiled_is_not_saved(make: Make, tmp_path: Path) -> None:
    quantized = compiled(make)
    recipe = resolve("rtn", weight_bits=4, activation_bits=8, calibration=SPEC)
    with pytest.raises(ValueError, match="before it is compiled"):
        checkpoint.save(
            tmp_path / "checkpoint",
            quantized.pipeline,
            quantized.denoiser,
            recipe,
            model={},
            environment={},
        )
    assert not (tmp_path / "checkpoint").exists()


def test_a_second_forward_at_a_time_is_refused_and_disturbs_nothing(
    make: Make,
) -> None:
    unet = compiled(make, "standard").denoiser.unet
    x = noise(0, 2, 3, 8, 8)
    expected, other = (unet(x, t, return_dict=False)[0] for t in (999, 1))
    assert not torch.equal(expected, other)

    def intrude(*_: object) -> None:
        with pytest.raises(RuntimeError, match="one forward at a time"):
            unet(x, 1)

    handle = unet.conv_in.register_forward_pre_hook(intrude)
    out = unet(x, 999, return_dict=False)[0]
    handle.remove()
    assert torch.equal(out, expected)
    assert torch.equal(unet(x, 1, return_dict=False)[0], other)


def test_samples_at_several_timesteps_keep_order_fraction_and_channels() -> None:
    """The output may have other channels than the sample, as with learned variances."""
    calls = []

    def forward(
        sample: Tensor, t: Tensor, labels: Tensor, *, return_dict: bool
    ) -> tuple[Tensor]:
        assert not return_dict
        calls.append(t.tolist())
        both = torch.stack([t, labels.to(t)], dim=1)
        return (torch.cat([sample, both[:, :, None, None].expand(-1, 2, 8, 8)], dim=1),)

    x, labels = noise(0, 4, 3, 8, 8), torch.tensor([5, 6, 7, 8])
    t = torch.tensor([7.5, 2.25, 7.75, 0.5])
    (out,) = _one_by_one(forward, x, t, labels, return_dict=False)
    assert calls == [[0.5], [2.25], [7.5, 7.75]]
    assert torch.equal(out[:, :3], x)
    assert torch.equal(out[:, 3, 0, 0], t)
    assert torch.equal(out[:, 4, 0, 0], labels.float())
    named = _one_by_one(forward, x, t, labels)
    assert isinstance(named, UNet2DOutput)
    assert torch.equal(named.sample, out)


def test_no_trajectory_goes_on_from_a_batch_of_several_timesteps(make: Make) -> None:
    used, fresh = compiled(make, MODULATED), compiled(make, MODULATED)
    x = noise(0, 4, 3, 8, 8)
    used.denoiser(x, torch.tensor([999, 700, 500, 300]))
    one, t = x[:1] / 2, torch.tensor([400])
    assert torch.equal(used.denoiser(one, t), fresh.denoiser(one, t))

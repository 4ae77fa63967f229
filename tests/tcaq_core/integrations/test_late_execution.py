from pathlib import Path

import pytest
import torch
from accelerate.hooks import (  # type: ignore[import-untyped]
    ModelHook,
    add_hook_to_module,
)
from diffusers import UNet2DModel

from tcaq_core import checkpoint
from tcaq_core.diffusion import load_pipeline
from tcaq_core.integrations.diffusers import execution
from tcaq_core.integrations.late_execution import Kind
from tcaq_core.quantization import quantize
from tcaq_core.recipe import Recipe


class Counting(ModelHook):  # type: ignore[misc]  # accelerate is Any
    """What accelerate's offloading does before each call, without the moving."""

    def __init__(self) -> None:
        self.calls = 0

    def pre_forward(
        self, module: object, *args: object, **kwargs: object
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        del module
        self.calls += 1
        return args, kwargs


@pytest.mark.parametrize("kind", ["integer", "simulated"])
def test_what_is_wrapped_around_a_model_stays_around_it(
    tiny_folder: Path, tmp_path: Path, recipe: Recipe, kind: Kind
) -> None:
    pipeline = load_pipeline(tiny_folder, device=torch.device("cpu"))
    denoiser = quantize(pipeline, recipe, progress=lambda *_: None).denoiser
    checkpoint.save(tmp_path, pipeline, denoiser, recipe, model={}, environment={})
    with execution(kind):
        unet = UNet2DModel.from_pretrained(tmp_path)
    hook = Counting()
    add_hook_to_module(unet, hook)
    for _ in range(3):
        unet(torch.zeros(2, 3, 8, 8), 400)
    assert hook.calls == 3
    assert unet.hf_quantizer.execution.kind == kind

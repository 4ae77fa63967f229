"""Fixtures of the runtime: quantized tiny denoisers, and the CPU's kernels."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from tcaq_core import checkpoint
from tcaq_core.diffusion import load_pipeline
from tcaq_core.quantization import quantize
from tcaq_core.recipe import CalibrationSpec, Method, resolve
from tcaq_core.recipe.recipe import ActivationBits
from tcaq_core.runtime.cpu import OnednnKernels
from tcaq_core.runtime.native import load_native
from tests.tcaq_core.runtime.pairs import Quantized
from tests.tiny import save_tiny_pipeline

SPEC = CalibrationSpec(num_samples=4, num_steps=5, seed=0)

Make = Callable[..., Quantized]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Quantize the tiny model once for each recipe; return the checkpoint's folder."""
    root = tmp_path_factory.mktemp("quantized")
    model = save_tiny_pipeline(root / "model")

    @cache
    def checkpoint_of(
        preset: str | Method, weight_bits: int, activation_bits: ActivationBits
    ) -> Path:
        recipe = resolve(
            preset,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            calibration=SPEC,
        )
        pipeline = load_pipeline(model, device=torch.device("cpu"))
        result = quantize(pipeline, recipe, progress=lambda *_: None)
        folder = root / str(len(list(root.iterdir())))
        checkpoint.save(
            folder, pipeline, result.denoiser, recipe, model={}, environment={}
        )
        return folder

    return checkpoint_of


@pytest.fixture
def make(made: Callable[..., Path]) -> Make:
    """Load a quantized tiny denoiser; the same arguments give the same one again."""

    def quantized(
        preset: str | Method = "rtn",
        *,
        weight_bits: int = 4,
        activation_bits: ActivationBits = 8,
    ) -> Quantized:
        folder = made(preset, weight_bits, activation_bits)
        loaded = checkpoint.load(folder, device=torch.device("cpu"))
        return Quantized(loaded.pipeline, loaded.denoiser)

    return quantized


@pytest.fixture(scope="session")
def onednn() -> OnednnKernels:
    return OnednnKernels(load_native())

"""What the sampling benchmark runs: the 35.7M-parameter layout, quick checkpoints."""

from pathlib import Path
from typing import Final

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from tcaq_core import checkpoint
from tcaq_core.diffusion import load_pipeline
from tcaq_core.environment import describe_environment
from tcaq_core.quantization import quantize
from tcaq_core.recipe import (
    DAQ,
    PRESETS,
    TCR,
    CalibrationSpec,
    FitRanges,
    Method,
    Recipe,
    Split,
)

CIFAR10_35M: Final = "cifar10-35m"
NUM_STEPS: Final = 4
"""Sampler steps that are calibrated, and so the timesteps that are timed."""
# The layers and grids of `standard`, none of its searches: what is stored and how it
# executes is the same, what the images look like is not asked here.
QUICK: Final = Method(
    passes=(
        Split(),
        TCR(strength=0.5),
        FitRanges(weight="min_max", activation="min_max", timesteps="step"),
        DAQ(),
    ),
    skip=PRESETS["standard"](4, 8).skip,
)


def cifar10_35m(seed: int = 0) -> UNet2DModel:
    """Return the DDPM UNet of CIFAR-10 (35,746,307 parameters), seeded at random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DModel(
            sample_size=32,
            in_channels=3,
            out_channels=3,
            block_out_channels=(128, 256, 256, 256),
            layers_per_block=2,
            down_block_types=(
                *("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            ),
            up_block_types=(*("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),),
            attention_head_dim=None,  # one head of 256 channels
            downsample_padding=0,
            flip_sin_to_cos=False,
            freq_shift=1,
            norm_eps=1e-6,
        )


def save_cifar10_35m(folder: Path, *, seed: int = 0) -> Path:
    """Write that UNet with DDPM's 1000 linear timesteps as a pipeline folder."""
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    pipeline = DDPMPipeline(unet=cifar10_35m(seed), scheduler=scheduler)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def quantize_quickly(
    model: Path, out: Path, bits: tuple[int, int], *, device: torch.device, seed: int
) -> Path:
    """Write a checkpoint of a model folder, calibrated on one short trajectory.

    Raises:
        pydantic.ValidationError: no such bit widths.
        TCAQError: the science refuses the model.
    """
    calibration = CalibrationSpec(num_samples=1, num_steps=NUM_STEPS, seed=seed)
    recipe = Recipe.model_validate(
        {
            "weight_bits": bits[0],
            "activation_bits": bits[1],
            "method": QUICK,
            "calibration": calibration,
        }
    )
    pipeline = load_pipeline(model, device=device)
    result = quantize(pipeline, recipe, progress=lambda *_: None)
    checkpoint.save(
        out,
        pipeline,
        result.denoiser,
        recipe,
        model={"reference": model.name},
        environment=dict(describe_environment(device)),
    )
    return out

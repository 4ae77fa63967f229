"""Tiny diffusion pipelines made on the spot: seconds on a CPU, no download."""

from pathlib import Path

import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel


def tiny_unet(seed: int = 0, *, attention_heads: int = 2) -> UNet2DModel:
    """Return a random UNet: two levels, residual and attention blocks, 8 x 8."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DModel(
            sample_size=8,
            in_channels=3,
            out_channels=3,
            layers_per_block=1,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=32 // attention_heads,
            norm_num_groups=8,
        )
        with torch.no_grad():
            for name, parameter in unet.named_parameters():
                if name.endswith("bias") or "norm" in name:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    return unet.eval().requires_grad_(False)


def save_tiny_pipeline(folder: Path, seed: int = 0) -> Path:
    """Write a random DDIM pipeline in diffusers format; return its folder."""
    scheduler = DDIMScheduler(num_train_timesteps=1000, clip_sample=True)
    pipeline = DDIMPipeline(unet=tiny_unet(seed), scheduler=scheduler)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder

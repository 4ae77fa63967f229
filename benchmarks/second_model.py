"""Make a second model of another shape, so that nothing is tuned to the first.

    python -m benchmarks.second_model build/second-model [--iterations 400]
    python -m benchmarks.quality --model build/second-model --recipes rtn,tcaq,best

A UNet2DModel with other widths, depth, attention and image size than the demo model,
trained for a few minutes on coloured discs drawn on the spot. Its pictures are rough;
what counts is that its weights and activations are those of a trained denoiser.
"""

import argparse
from pathlib import Path

import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from torch import Tensor
from torch.nn import functional as nnf

SIZE = 24
BATCH = 32


def main() -> None:
    """Train and save the model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(arguments.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(arguments.seed)
        unet = UNet2DModel(
            sample_size=SIZE,
            block_out_channels=(48, 96),
            layers_per_block=2,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=24,
            norm_num_groups=16,
        )
    scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=True)
    loss = train(unet, scheduler, arguments.iterations, generator)
    pipeline = DDIMPipeline(unet=unet.eval(), scheduler=scheduler)
    pipeline.save_pretrained(arguments.folder, safe_serialization=True)
    print(f"{arguments.folder}: loss of the last 50 iterations {loss:.4f}")


def train(
    unet: UNet2DModel,
    scheduler: DDIMScheduler,
    iterations: int,
    generator: torch.Generator,
) -> float:
    """Train on the predicted noise; return the mean loss of the last 50 iterations."""
    optimizer = torch.optim.Adam(unet.parameters(), lr=1e-3)
    losses = []
    for _ in range(iterations):
        x_0 = discs(BATCH, generator)
        eps = torch.randn(x_0.shape, generator=generator)
        t = torch.randint(1000, (BATCH,), generator=generator)
        x_t = scheduler.add_noise(x_0, eps, t)
        loss = nnf.mse_loss(unet(x_t, t, return_dict=False)[0], eps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    last = losses[-50:]
    return sum(last) / len(last)


def discs(num: int, generator: torch.Generator) -> Tensor:
    """Return images (num, 3, SIZE, SIZE) in [-1, 1]: a disc each on a plain ground."""
    place = torch.arange(SIZE) / SIZE
    centre = torch.rand(num, 2, 1, 1, generator=generator)
    radius = 0.15 + 0.2 * torch.rand(num, 1, 1, generator=generator)
    colours = torch.rand(2, num, 3, 1, 1, generator=generator) * 2 - 1
    distance = (
        (place[:, None] - centre[:, 0]) ** 2 + (place - centre[:, 1]) ** 2
    ).sqrt()
    inside = torch.sigmoid((radius - distance) * 40)[:, None]
    return colours[0] * inside + colours[1] * (1 - inside)


if __name__ == "__main__":
    main()

"""What the evaluation benchmark feeds its engines: images and features from a seed."""

import torch
from torch import Tensor

SIZE = 32
"""Side in pixels: as CIFAR-10's."""


def random_images(num_images: int, *, seed: int, size: int = SIZE) -> Tensor:
    """Return uint8 images (N, size, size, 3) of noise."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_images, size, size, 3)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def random_features(num_images: int, *, width: int, seed: int) -> Tensor:
    """Return float32 features (N, width): positive and correlated, as a network's.

    Two seeds give two samples of one distribution.
    """
    mix = torch.randn((width, width), generator=torch.Generator().manual_seed(width))
    # As an Inception's, the variances fall off: condition numbers are large.
    scale = torch.arange(1, width + 1).float().rsqrt()
    noise = torch.randn(
        (num_images, width), generator=torch.Generator().manual_seed(seed)
    )
    return (noise @ (mix * scale[:, None])).div_(width**0.5).abs_()

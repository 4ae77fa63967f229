"""A small feature network and reference statistics, made on the spot."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from tcaq_core.evaluation.cifar_resnet import CifarResNet
from tcaq_core.evaluation.extractors import load_extractor
from tcaq_core.evaluation.images import open_images
from tcaq_core.evaluation.reference import make_reference

NAME = "tiny-resnet"
REFERENCE = "noise"
WIDTH = 4


def save_tiny_extractor(directory: Path, *, image_size: int = 8) -> Path:
    """Write a random ResNet-8 with 16 features; return its folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        network = CifarResNet(num_blocks=1, width=WIDTH, num_classes=10)
    folder = directory / "extractors" / NAME
    folder.mkdir(parents=True)
    tensors = network.state_dict()
    save_file(
        {k: v for k, v in tensors.items() if v.is_floating_point()},
        folder / "model.safetensors",
    )
    config = {"architecture": "cifar-resnet", "name": NAME, "image_size": image_size}
    config |= {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def save_evaluation_directory(directory: Path, *, image_size: int = 8) -> Path:
    """Write a network and statistics of 64 random images in it; return the folder."""
    extractor = save_tiny_extractor(directory, image_size=image_size)
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (64, image_size, image_size, 3), np.uint8)
    np.savez(directory / "noise.npz", images=images)
    make_reference(
        open_images(directory / "noise.npz"),
        load_extractor(extractor, device=torch.device("cpu")),
        directory / "references" / f"{REFERENCE}.safetensors",
        name=REFERENCE,
        progress=lambda _done, _total: None,
    )
    return directory

"""Train the small classifier whose features the project's own scores use.

    python -m examples.train_classifier --data FOLDER [--seed 0] [--epochs 12]

A ResNet-14 (1512.03385, section 4.2) on CIFAR-10, in bfloat16 on one CPU thread, about
a quarter of an hour. It leaves a folder that `--extractor` takes: model.safetensors,
config.json, README.md. The same arguments on the same machine give the same weights.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 # its usual name

from tcaq_core.evaluation.architectures import is_used
from tcaq_core.evaluation.cifar_resnet import CifarResNet

ROOT: Final = Path(__file__).resolve().parents[1]
DATA: Final = ROOT.parent / "shared" / "data" / "cifar10"
OUTPUT: Final = ROOT / "evaluation" / "extractors" / "resnet14-cifar10"
MEAN: Final = (0.4914, 0.4822, 0.4465)
STD: Final = (0.2470, 0.2435, 0.2616)
NUM_BLOCKS: Final = 2
BATCH_SIZE: Final = 128
PEAK_RATE: Final = 0.2
WEIGHT_DECAY: Final = 5e-4
WARM_UP: Final = 0.2
SHIFT: Final = 4
README: Final = """\
# {name}

A ResNet-14 for CIFAR (1512.03385, section 4.2; option A shortcuts; {parameters:,}
parameters), trained from scratch for this project on the CIFAR-10 training images by
`examples/train_classifier.py` (epochs {epochs}, seed {seed}; random flips and shifts,
SGD with a one-cycle rate, bfloat16 on one CPU thread). Its pooled features (64) are
what `FD-{name}` is computed in: a Frechet distance, but not the FID.

Test accuracy: {accuracy:.2%} on the 10,000 test images. `config.json` says how images
are shown to it. Licence: Apache-2.0, as the project; the images are not included.
"""


@dataclass(frozen=True)
class Labelled:
    """Images and their classes."""

    images: UInt8[Tensor, "N H W 3"]
    labels: Int64[Tensor, "N"]


def main(arguments: list[str] | None = None) -> int:
    """Train, test and save the classifier; return the exit code."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    train_data, test_data = read_data(options.data)
    generator = torch.Generator().manual_seed(options.seed)
    network = new_network(generator=generator)
    train(network, train_data, epochs=options.epochs, generator=generator)
    accuracy = accuracy_of(network, test_data)
    print(f"test accuracy {accuracy:.2%}")  # noqa: T201 # a program's answer
    save(
        network,
        options.output,
        accuracy=accuracy,
        epochs=options.epochs,
        seed=options.seed,
    )
    return 0


def read_data(path: Path) -> tuple[Labelled, Labelled]:
    """Return the images to train on and those to test on.

    A folder holds ``train*.npz`` and ``test.npz``; of one npz, the last tenth is for
    the test. Keys: ``images``, (N, H, W, 3) uint8, and ``labels``, (N,).
    """
    if path.is_dir():
        parts = [_read(file) for file in sorted(path.glob("train*.npz"))]
        together = Labelled(
            torch.cat([part.images for part in parts]),
            torch.cat([part.labels for part in parts]),
        )
        return together, _read(path / "test.npz")
    whole = _read(path)
    kept = len(whole.labels) * 9 // 10
    return (
        Labelled(whole.images[:kept], whole.labels[:kept]),
        Labelled(whole.images[kept:], whole.labels[kept:]),
    )


def new_network(*, generator: torch.Generator) -> CifarResNet:
    """Return an untrained ResNet-14, its weights drawn as 1502.01852 says."""
    network = CifarResNet(num_blocks=NUM_BLOCKS, num_classes=10)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, generator=generator)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's annotation lacks it
    return network


def train(
    network: CifarResNet, data: Labelled, *, epochs: int, generator: torch.Generator
) -> None:
    """Fit the network in place: one cycle of the learning rate over all epochs."""
    steps = len(data.labels) // BATCH_SIZE
    optimizer, schedule = _optimizer(network, num_steps=epochs * steps)
    network.train()
    for epoch in range(epochs):
        began, total = time.monotonic(), 0.0
        order = torch.randperm(len(data.labels), generator=generator)
        for chosen in order[: steps * BATCH_SIZE].split(BATCH_SIZE):
            x = augment(normalise(data.images[chosen]), generator=generator)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = network(x).logits
            loss = F.cross_entropy(logits.float(), data.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        print(  # noqa: T201 # a program's progress
            f"epoch {epoch + 1}/{epochs}: loss {total / steps:.3f}, "
            f"{time.monotonic() - began:.0f} s",
            flush=True,
        )


def _optimizer(
    network: CifarResNet, *, num_steps: int
) -> tuple[torch.optim.SGD, torch.optim.lr_scheduler.OneCycleLR]:
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=PEAK_RATE,
        momentum=0.9,
        weight_decay=WEIGHT_DECAY,
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=PEAK_RATE,
        total_steps=num_steps,
        pct_start=WARM_UP,
        cycle_momentum=False,
    )
    return optimizer, schedule


def normalise(images: UInt8[Tensor, "N H W 3"]) -> Float[Tensor, "N 3 H W"]:
    """Return (x / 255 - mean) / std, channels last in memory."""
    x = (images.float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    return x.permute(0, 3, 1, 2)


def augment(
    x: Float[Tensor, "N C H W"], *, generator: torch.Generator
) -> Float[Tensor, "N C H W"]:
    """Return each image shifted by up to four pixels and, half of them, mirrored."""
    num, _, height, width = x.shape
    padded = F.pad(x, (SHIFT,) * 4)
    top, left = torch.randint(2 * SHIFT + 1, (2, num, 1), generator=generator)
    rows = top + torch.arange(height)
    columns = left + torch.arange(width)
    mirrored = torch.rand(num, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    index = torch.arange(num)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


@torch.no_grad()
def accuracy_of(network: CifarResNet, data: Labelled) -> float:
    """Return the share of images whose class the network names, in float32."""
    network.eval()
    right = sum(
        int((network(normalise(images)).logits.argmax(1) == labels).sum())
        for images, labels in zip(
            data.images.split(250), data.labels.split(250), strict=True
        )
    )
    return right / len(data.labels)


def save(
    network: CifarResNet, folder: Path, *, accuracy: float, epochs: int, seed: int
) -> None:
    """Write the folder of an extractor; its name is the extractor's."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: value.contiguous()
        for name, value in network.state_dict().items()
        if is_used(name)
    }
    save_file(state, folder / "model.safetensors")
    config = {
        "architecture": "cifar-resnet",
        "name": folder.name,
        "image_size": 32,
        "mean": MEAN,
        "std": STD,
        "test_accuracy": accuracy,
        "epochs": epochs,
        "seed": seed,
    }
    (folder / "config.json").write_text(
        f"{json.dumps(config, indent=2)}\n", encoding="utf-8"
    )
    parameters = sum(parameter.numel() for parameter in network.parameters())
    text = README.format(
        name=folder.name,
        parameters=parameters,
        epochs=epochs,
        seed=seed,
        accuracy=accuracy,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _read(path: Path) -> Labelled:
    with np.load(path, allow_pickle=False) as file:
        labels = torch.from_numpy(file["labels"]).long()
        return Labelled(torch.from_numpy(file["images"]), labels)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Train the project's classifier.")
    parser.add_argument("--data", type=Path, default=DATA, help="folder or npz")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder to write")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())

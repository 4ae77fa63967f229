import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from examples.train_classifier import augment, main, normalise, read_data
from tcaq_core.evaluation.extractors import load_extractor


def save_data(path: Path, *, num: int, seed: int = 0) -> Path:
    """Write pictures of ten shades, one a class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, num)
    noise = rng.integers(0, 12, (num, 32, 32, 3))
    images = (24 * labels[:, None, None, None] + noise).astype(np.uint8)
    np.savez(path, images=images, labels=labels)
    return path


def test_it_learns_and_leaves_an_extractor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = save_data(tmp_path / "data.npz", num=640)
    outputs = [tmp_path / "one" / "shades", tmp_path / "two" / "shades"]
    for output in outputs:
        arguments = ["--data", str(data), "--output", str(output), "--epochs", "2"]
        assert main(arguments) == 0
    one, two = ((output / "model.safetensors").read_bytes() for output in outputs)
    assert one == two
    config = json.loads((outputs[0] / "config.json").read_text())
    assert f"{config['test_accuracy']:.2%}" in (outputs[0] / "README.md").read_text()
    printed = capsys.readouterr().out
    first, last = map(float, re.findall(r"loss ([\d.]+)", printed)[:2])
    assert last < 0.8 * first
    assert f"test accuracy {config['test_accuracy']:.2%}" in printed
    network = load_extractor(outputs[0], device=torch.device("cpu"))
    assert network.info.name == "shades"
    _, held_out = read_data(data)
    logits = network(held_out.images).logits
    assert logits is not None
    right = (logits.argmax(1) == held_out.labels).float().mean()
    assert float(right) == pytest.approx(config["test_accuracy"], abs=0.01)


def test_a_folder_s_parts_come_together_and_its_test_stays_apart(
    tmp_path: Path,
) -> None:
    for i, num in enumerate((3, 4)):
        save_data(tmp_path / f"train-{i}.npz", num=num, seed=i)
    save_data(tmp_path / "test.npz", num=2, seed=9)
    train, test = read_data(tmp_path)
    assert (len(train.images), len(train.labels), len(test.labels)) == (7, 7, 2)
    whole, last = read_data(save_data(tmp_path / "all.npz", num=20))
    assert (len(whole.labels), len(last.labels)) == (18, 2)


def test_augmented_images_are_shifted_and_mirrored_copies(
    generator: torch.Generator,
) -> None:
    image = torch.arange(1.0, 3 * 12 * 12 + 1).reshape(1, 3, 12, 12)
    padded = torch.nn.functional.pad(image, (4,) * 4)[0]
    windows = padded.unfold(1, 12, 1).unfold(2, 12, 1).permute(1, 2, 0, 3, 4)
    possible = windows.reshape(-1, 3, 12, 12)
    possible = torch.cat([possible, possible.flip(-1)])
    found = augment(image.expand(200, -1, -1, -1), generator=generator)
    kinds = {
        int((possible == one).all(dim=(1, 2, 3)).nonzero().item()) for one in found
    }
    assert len(kinds) > 80
    assert min(kinds) < 81 <= max(kinds)


def test_black_and_white_pixels_are_normalised() -> None:
    x = normalise(torch.tensor([[[[0, 255, 0]]]], dtype=torch.uint8))
    assert x.shape == (1, 3, 1, 1)
    assert x[0, 0, 0, 0].item() == pytest.approx(-0.4914 / 0.2470)
    assert x[0, 1, 0, 0].item() == pytest.approx((1 - 0.4822) / 0.2435)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tcaq_core.evaluation.image_tar import image_tar


@pytest.mark.parametrize("channels", [1, 3])
def test_kept_images_come_back_pixel_by_pixel(tmp_path: Path, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 7, channels), np.uint8)
    with image_tar(tmp_path / "images.tar") as keep:
        keep(41, pixels[0])
        keep(1_000_042, pixels[1])
    with tarfile.open(tmp_path / "images.tar") as tar:
        assert tar.getnames() == ["000041.png", "1000042.png"]
        for name, expected in zip(tar.getnames(), pixels, strict=True):
            member = tar.extractfile(name)
            assert member is not None
            found = np.asarray(Image.open(io.BytesIO(member.read())))
            assert np.array_equal(found.reshape(expected.shape), expected)


def test_the_same_images_are_the_same_bytes(tmp_path: Path) -> None:
    pixels = np.full((4, 4, 3), 7, np.uint8)
    for name in ("a", "b"):
        with image_tar(tmp_path / name) as keep:
            keep(0, pixels)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

"""Kept images: PNGs in a tar whose bytes depend on the images alone."""

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from tcaq_core.evaluation.shard import Keep


@contextmanager
def image_tar(path: Path) -> Iterator[Keep]:
    """Give a function that adds an image as ``<index, six digits or more>.png``."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:

        def keep(index: int, pixels: UInt8[np.ndarray, "H W C"]) -> None:
            png = png_bytes(pixels)
            # Owner, mode and time stay at their defaults: the same images, the same
            # bytes.
            member = tarfile.TarInfo(f"{index:06d}.png")
            member.size = len(png)
            tar.addfile(member, io.BytesIO(png))

        yield keep


def png_bytes(pixels: UInt8[np.ndarray, "H W C"]) -> bytes:
    """Return a PNG of one image, gray for C = 1, colour for C = 3."""
    buffer = io.BytesIO()
    squeezed = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
    Image.fromarray(squeezed).save(buffer, "PNG")
    return buffer.getvalue()

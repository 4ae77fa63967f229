"""Images to make reference statistics of, as one stream of uint8 in a fixed order.

A folder of PNGs (sorted by path, subfolders too), one .npz or a folder of .npz (sorted
by path). All headers are read before the first image is decoded: what can be refused
is refused before the expensive part begins.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from tcaq_core.errors import ImagesUnusable
from tcaq_core.evaluation.image_files import ImageFile, open_image_file
from tcaq_core.evaluation.image_folder import list_files
from tcaq_core.evaluation.npz_images import NpzImages, open_npz

IMAGE_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg"})
NPZ_SUFFIX: Final = ".npz"
JPEG_SUFFIXES: Final = frozenset({".jpg", ".jpeg"})
OTHER_SUFFIXES: Final = frozenset({".bmp", ".gif", ".tif", ".tiff", ".webp", ".npy"})
# Float32 at three channels: 200 MB for one image.
MAX_PIXELS: Final = 2**24

Part = ImageFile | NpzImages


@dataclass(frozen=True)
class Images:
    """Images of one size in a fixed order, read from disk as they are asked for."""

    parts: Sequence[Part]
    shape: tuple[int, int, int]
    """Height, width and channels as stored; gray images are shown as colour."""

    @property
    def num_images(self) -> int:
        """How many images there are."""
        return sum(part.num_images for part in self.parts)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width."""
        return self.shape[:2]

    def batches(self, batch_size: int) -> Iterator[UInt8[Tensor, "N H W 3"]]:
        """Decode all images in order, `batch_size` at once and the rest at the end.

        Batches run over the borders of files: how images are spread over files does
        not change them.

        Raises:
            ImagesUnusable: a file is damaged, or not what its header said.
            ValueError: a batch of no images.
        """
        if batch_size < 1:
            raise ValueError("a batch has at least one image")
        waiting: list[np.ndarray] = []
        count = 0
        for part in self.parts:
            for block in _whole(part, batch_size, self.shape):
                rest = block
                while len(rest):
                    taken = rest[: batch_size - count]
                    waiting.append(taken)
                    rest = rest[len(taken) :]
                    count += len(taken)
                    if count == batch_size:
                        yield _as_batch(waiting)
                        waiting, count = [], 0
        if waiting:
            yield _as_batch(waiting)


def open_images(path: Path, *, allow_jpeg: bool = False) -> Images:
    """Return the images of a folder or an .npz after a look at every header.

    Gray images count as colour where all of them are gray. JPEG moves a Frechet
    distance (2104.11222), so it has to be allowed.

    Raises:
        ImagesUnusable: nothing to read, a file of another kind, images of several
            sizes, or a file that cannot be read; the file is named.
    """
    parts = _parts(path, allow_jpeg=allow_jpeg)
    first = parts[0]
    for part in parts:
        if part.shape != first.shape:
            raise ImagesUnusable(
                f"{part.name} is {_size(part.shape)}, {first.name} is "
                f"{_size(first.shape)}.",
                hint="Bring all images to one size and one number of channels; how "
                "they are resized moves the score.",
            )
    if first.shape[0] * first.shape[1] > MAX_PIXELS:
        raise ImagesUnusable(
            f"{first.name} declares {_size(first.shape)}.",
            hint=f"At most {MAX_PIXELS} pixels an image are decoded.",
        )
    return Images(parts=parts, shape=first.shape)


def _parts(path: Path, *, allow_jpeg: bool) -> list[Part]:
    if path.is_file():
        if path.suffix.lower() != NPZ_SUFFIX:
            raise ImagesUnusable(
                f"{path.name} is neither a folder nor an .npz file.",
                hint="Give a folder of PNGs, an .npz file or a folder of them.",
            )
        return [open_npz(path, name=path.name)]
    found = list_files(path, known=IMAGE_SUFFIXES | {NPZ_SUFFIX} | OTHER_SUFFIXES)
    suffixes = {file.suffix.lower(): name for name, file in found.items()}
    _refuse_suffixes(suffixes, allow_jpeg=allow_jpeg)
    if NPZ_SUFFIX in suffixes:
        return [open_npz(file, name=name) for name, file in found.items()]
    return [open_image_file(file, name=name) for name, file in found.items()]


def _refuse_suffixes(suffixes: dict[str, str], *, allow_jpeg: bool) -> None:
    for suffix, name in suffixes.items():
        if suffix in OTHER_SUFFIXES:
            raise ImagesUnusable(
                f"{name} is no PNG.",
                hint="Leaving it out would change the score in silence: convert it "
                "losslessly to PNG, or move it away.",
            )
        if suffix in JPEG_SUFFIXES and not allow_jpeg:
            raise ImagesUnusable(
                f"{name} is a JPEG, whose losses move the score.",
                hint="Give PNGs or an .npz; allow JPEG (--jpeg) only where the data "
                "set itself is published so.",
            )
    if NPZ_SUFFIX in suffixes and len(suffixes) > 1:
        other = next(name for suffix, name in suffixes.items() if suffix != NPZ_SUFFIX)
        raise ImagesUnusable(
            f"The folder holds .npz files and {other}.",
            hint="Keep single images and .npz files in folders of their own.",
        )


def _whole(
    part: Part, batch_size: int, shape: tuple[int, int, int]
) -> Iterator[UInt8[np.ndarray, "N H W C"]]:
    """Decode a part that must be what its header said: it may have changed since."""
    count = 0
    for block in part.blocks(batch_size):
        count += len(block)
        if block.shape[1:] != shape:
            break
        yield block
    else:
        if count == part.num_images:
            return
    raise ImagesUnusable(
        f"{part.name} is not what its header said.",
        hint="Copy the file again, and leave it alone while it is read.",
    )


def _as_batch(blocks: list[np.ndarray]) -> UInt8[Tensor, "N H W 3"]:
    batch = torch.from_numpy(np.concatenate(blocks))
    return batch.expand(-1, -1, -1, 3).contiguous()


def _size(shape: tuple[int, int, int]) -> str:
    height, width, channels = shape
    return f"{width} x {height} in {'gray' if channels == 1 else 'colour'}"

"""The images of an .npz, read as a stream; nothing in it is ever unpickled."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Final, cast
from zipfile import BadZipFile, ZipFile
from zlib import error as ZlibError  # noqa: N812 - a class in lower case

import numpy as np
from jaxtyping import UInt8
from numpy.lib import format as npy

from tcaq_core.errors import ImagesUnusable

STATISTICS: Final = ("mu", "sigma", "mu_s", "sigma_s")
KEYS: Final = ("images", "arr_0")
"""The member that holds the images; ``arr_0`` is what `numpy.savez` calls the first."""
HINT: Final = "Save uint8 images of shape (N, H, W, 3) or (N, H, W, 1) as 'images'."
READERS: Final = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}
DAMAGED: Final = (
    BadZipFile,
    ZlibError,
    OSError,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
)
"""What reading a damaged, encrypted or unusually compressed archive raises."""


@dataclass(frozen=True)
class NpzImages:
    """The images of one .npz; one part of `Images`."""

    path: Path
    name: str
    member: str
    num_images: int
    shape: tuple[int, int, int]

    def blocks(self, num_images: int) -> Iterator[UInt8[np.ndarray, "N H W C"]]:
        """Decode the images in order, at most so many at once.

        Raises:
            ImagesUnusable: the archive is damaged.
        """
        image_bytes = math.prod(self.shape)
        with (
            _reading(self.name),
            ZipFile(self.path) as archive,
            _open(archive, self.member) as member,
        ):
            if _header(member, self.name) != (self.num_images, *self.shape):
                raise ValueError("another shape than its header had")
            for start in range(0, self.num_images, num_images):
                count = min(num_images, self.num_images - start)
                raw = _read_exactly(member, count * image_bytes)
                yield np.frombuffer(raw, np.uint8).reshape(count, *self.shape)
            # The checksum is compared at the end of the member.
            if member.read(1):
                raise ValueError("more bytes than its header declares")


def open_npz(path: Path, *, name: str) -> NpzImages:
    """Return the images of an .npz after a look at its directory and header.

    Raises:
        ImagesUnusable: not an .npz, no images in it, another dtype or shape, pickled
            objects, or fewer bytes than it declares.
    """
    with _reading(name), ZipFile(path) as archive:
        member = _member(archive, name)
        with _open(archive, member) as file:
            shape = _header(file, name)
            declared = file.tell() + math.prod(shape)
        size = archive.getinfo(member).file_size
        if size != declared:
            raise ValueError(f"{size} bytes where its header declares {declared}")
    return NpzImages(path, name, member, shape[0], shape[1:])


@contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        raise ImagesUnusable(
            f"{name} cannot be read: {error}.", hint="Save or copy the file again."
        ) from error


def _open(archive: ZipFile, member: str) -> BufferedIOBase:
    return cast("BufferedIOBase", archive.open(member))


def _member(archive: ZipFile, name: str) -> str:
    names = archive.namelist()
    if {f"{key}.npy" for key in STATISTICS} & set(names):
        # A reference batch as the ADM evaluator publishes them.
        raise ImagesUnusable(
            f"{name} holds statistics of a whole data set beside some of its images.",
            hint="Statistics of the few would pass for those of all: make them of the "
            "data set itself.",
        )
    for key in KEYS:
        if f"{key}.npy" in names:
            return f"{key}.npy"
    held = ", ".join(member.removesuffix(".npy") for member in names[:8])
    raise ImagesUnusable(
        f"{name} has neither 'images' nor 'arr_0'; it holds: {held or 'nothing'}.",
        hint=HINT,
    )


def _header(file: BufferedIOBase, name: str) -> tuple[int, int, int, int]:
    version = npy.read_magic(file)
    if version not in READERS:
        raise ValueError(f"the unknown array format {version}")
    shape, is_fortran, dtype = READERS[version](file)
    if dtype != np.uint8:
        kind = "pickled objects" if dtype.hasobject else str(dtype)
        raise ImagesUnusable(f"{name} holds {kind}, not uint8.", hint=HINT)
    if len(shape) != 4 or shape[3] not in {1, 3} or min(shape) < 1:
        raise ImagesUnusable(f"{name} holds an array of shape {shape}.", hint=HINT)
    if is_fortran:
        raise ImagesUnusable(
            f"{name} is stored column by column.",
            hint="Save numpy.ascontiguousarray(images).",
        )
    num_images, height, width, channels = shape
    return num_images, height, width, channels


def _read_exactly(file: BufferedIOBase, size: int) -> bytes:
    raw = file.read(size)
    if len(raw) != size:
        raise ValueError("it is truncated")
    return raw

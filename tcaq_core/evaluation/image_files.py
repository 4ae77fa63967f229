"""One PNG or JPEG: what its header declares, and its pixels."""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from tcaq_core.errors import ImagesUnusable

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
BIT_DEPTH: Final = 8
# PNG specification, section 11.2.1.
GRAY: Final = 0
COLOUR: Final = 2
KINDS: Final = {
    3: "has a palette",
    4: "has an alpha channel",
    6: "has an alpha channel",
}
CHANNELS: Final = {"L": 1, "RGB": 3}
CONVERT: Final = (
    "Convert all images to 8-bit gray or RGB PNGs, without alpha or palette."
)
DAMAGED: Final = (
    OSError,
    ValueError,
    SyntaxError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow raises over a file that it cannot or should not decode."""
COPY: Final = "Copy the file again: it is damaged."


@dataclass(frozen=True)
class ImageFile:
    """One image; one part of `Images`."""

    path: Path
    name: str
    shape: tuple[int, int, int]
    num_images: int = 1

    def blocks(self, num_images: int) -> Iterator[UInt8[np.ndarray, "1 H W C"]]:
        """Decode the image.

        Raises:
            ImagesUnusable: the pixels are damaged.
        """
        del num_images
        yield self._pixels()[None]

    def _pixels(self) -> UInt8[np.ndarray, "H W C"]:
        try:
            with Image.open(self.path, formats=("PNG", "JPEG")) as image:
                # The file may have changed since: nothing larger is decoded.
                is_same = (image.height, image.width) == self.shape[:2]
                pixels = np.asarray(image) if is_same else None
        except DAMAGED as error:
            raise _undecodable(self.name, str(error)) from error
        if pixels is None or pixels.dtype != np.uint8:
            raise _undecodable(self.name, "it is not what its header said")
        return pixels.reshape(*pixels.shape[:2], -1)


def _undecodable(name: str, reason: str) -> ImagesUnusable:
    return ImagesUnusable(f"{name} cannot be decoded: {reason}.", hint=COPY)


def open_image_file(path: Path, *, name: str) -> ImageFile:
    """Return an image after a look at its header; a PNG's chunks must be complete.

    Raises:
        ImagesUnusable: not what its suffix says, truncated, of more than 8 bits, or
            with alpha or a palette.
    """
    try:
        if path.suffix.lower() == ".png":
            with path.open("rb") as file:
                shape = _png_shape(file, name)
        else:
            shape = _jpeg_shape(path, name)
    except DAMAGED as error:
        raise _undecodable(name, str(error)) from error
    if min(shape) < 1:
        raise _undecodable(name, "it has no pixels")
    return ImageFile(path=path, name=name, shape=shape)


def _jpeg_shape(path: Path, name: str) -> tuple[int, int, int]:
    with Image.open(path, formats=("JPEG",)) as image:
        if image.mode not in CHANNELS:
            raise ImagesUnusable(f"{name} is in {image.mode}.", hint=CONVERT)
        return image.height, image.width, CHANNELS[image.mode]


def _png_shape(file: BinaryIO, name: str) -> tuple[int, int, int]:
    """Read IHDR and walk over the chunks to IEND without decoding any.

    Pillow opens 16-bit colour as 8-bit without a word, so the header is read here.
    """
    if file.read(len(SIGNATURE)) != SIGNATURE:
        raise ImagesUnusable(
            f"{name} is not a PNG.", hint="Its name ends in .png: rename or remove it."
        )
    kind, length = _chunk(file, name)
    if kind != b"IHDR" or length != 13:
        raise ImagesUnusable(f"{name} does not begin with a PNG header.", hint=COPY)
    header = file.read(length)
    if len(header) != length:
        raise ImagesUnusable(f"{name} is truncated.", hint=COPY)
    width, height, depth, colour = struct.unpack(">IIBB3x", header)
    if colour not in {GRAY, COLOUR}:
        raise ImagesUnusable(
            f"{name} {KINDS.get(colour, 'has an unknown colour type')}.", hint=CONVERT
        )
    if depth != BIT_DEPTH:
        raise ImagesUnusable(f"{name} has {depth} bits a channel.", hint=CONVERT)
    file.seek(4, os.SEEK_CUR)
    _walk(file, name)
    return height, width, 1 if colour == GRAY else 3


def _walk(file: BinaryIO, name: str) -> None:
    size = os.fstat(file.fileno()).st_size
    kind = b""
    while kind != b"IEND":
        kind, length = _chunk(file, name)
        if kind == b"tRNS":
            raise ImagesUnusable(f"{name} has a transparent colour.", hint=CONVERT)
        # Its data and their checksum.
        if file.seek(length + 4, os.SEEK_CUR) > size:
            raise ImagesUnusable(f"{name} is truncated.", hint=COPY)


def _chunk(file: BinaryIO, name: str) -> tuple[bytes, int]:
    head = file.read(8)
    if len(head) != 8:
        raise ImagesUnusable(f"{name} is truncated.", hint=COPY)
    length, kind = struct.unpack(">I4s", head)
    return kind, length

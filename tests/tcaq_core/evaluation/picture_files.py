"""Image files for tests, good and bad ones."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

Pixels = np.ndarray


def pixels(
    num_images: int, *, side: int = 8, channels: int = 3, seed: int = 0
) -> Pixels:
    """Return uint8 images (N, H, W, C)."""
    generator = np.random.default_rng(seed)
    shape = (num_images, side, side, channels)
    return generator.integers(0, 256, shape, dtype=np.uint8)


def save_png(path: Path, image: Pixels) -> Path:
    """Write one image (H, W, C) and the folder it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(path)
    return path


def save_pngs(folder: Path, images: Pixels) -> Path:
    """Write images as 000.png, 001.png, ..."""
    for index, image in enumerate(images):
        save_png(folder / f"{index:03}.png", image)
    return folder


def save_npz(path: Path, **arrays: Pixels) -> Path:
    """Write an archive and the folder it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type] # a flag is among its keywords
    return path


def raw_png(
    *, width: int, height: int, depth: int = 8, colour: int = 2, extra: bytes = b""
) -> bytes:
    """Return a PNG whose header says so; its pixels are one byte."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", zlib.compress(b"\0"))
    return b"\x89PNG\r\n\x1a\n" + chunks + _chunk(b"IEND", b"")


def transparent_colour() -> bytes:
    """Return the chunk that makes one colour of a PNG transparent."""
    return _chunk(b"tRNS", bytes(6))


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum

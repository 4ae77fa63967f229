import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tcaq_core.errors import ImagesUnusable
from tcaq_core.evaluation.image_files import open_image_file
from tests.tcaq_core.evaluation.picture_files import (
    pixels,
    raw_png,
    save_png,
    transparent_colour,
)


def refused(path: Path, *words: str) -> None:
    with pytest.raises(ImagesUnusable) as caught:
        open_image_file(path, name=path.name)
    for word in (path.name, *words):
        assert word in caught.value.detail


@pytest.mark.parametrize(
    ("mode", "words"),
    [("RGBA", "alpha"), ("LA", "alpha"), ("P", "palette"), ("I;16", "16 bits")],
)
def test_what_is_not_8_bit_gray_or_colour_is_refused(
    tmp_path: Path, mode: str, words: str
) -> None:
    path = tmp_path / "a.png"
    Image.new(mode, (4, 4)).save(path)
    refused(path, words)


@pytest.mark.parametrize(
    ("depth", "colour", "words"),
    [(16, 2, "16 bits"), (4, 0, "4 bits"), (1, 0, "1 bits"), (8, 5, "unknown colour")],
)
def test_the_header_s_own_words_count(
    tmp_path: Path, depth: int, colour: int, words: str
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(raw_png(width=4, height=4, depth=depth, colour=colour))
    refused(path, words)


def test_a_transparent_colour_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(raw_png(width=4, height=4, extra=transparent_colour()))
    refused(path, "transparent")


def test_no_pixels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(raw_png(width=0, height=4))
    refused(path, "no pixels")


def test_a_png_cut_anywhere_is_refused_by_its_chunks(tmp_path: Path) -> None:
    path = save_png(tmp_path / "a.png", pixels(1)[0])
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"not an image at all, whatever its name says")
    refused(path)


def test_a_jpeg_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("L", (8, 8)).save(path)
    raw = path.read_bytes()
    # SOF0: marker, length, precision, height, width.
    at = raw.index(b"\xff\xc0") + 5
    path.write_bytes(raw[:at] + struct.pack(">HH", 65000, 65000) + raw[at + 4 :])
    refused(path)


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path: Path) -> None:
    path = save_png(tmp_path / "a.png", pixels(1)[0])
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    found = open_image_file(path, name="a.png")
    with pytest.raises(ImagesUnusable, match=r"a\.png cannot be decoded"):
        list(found.blocks(1))


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_what_was_saved(tmp_path: Path, channels: int) -> None:
    image = pixels(1, channels=channels)
    found = open_image_file(save_png(tmp_path / "a.png", image[0]), name="a.png")
    assert found.shape == (8, 8, channels)
    (block,) = found.blocks(16)
    assert np.array_equal(block, image)

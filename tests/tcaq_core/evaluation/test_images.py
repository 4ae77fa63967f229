import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tcaq_core.errors import ImagesUnusable
from tcaq_core.evaluation.images import Images, open_images
from tests.tcaq_core.evaluation.picture_files import (
    pixels,
    raw_png,
    save_npz,
    save_png,
    save_pngs,
)


def read(images: Images, batch_size: int = 4) -> np.ndarray:
    return torch.cat(list(images.batches(batch_size))).numpy()


def test_images_come_in_the_order_of_their_relative_paths(tmp_path: Path) -> None:
    drawn = pixels(5)
    names = ("b/0.png", "10.png", "a/b.PNG", "a.png", "9.png")
    for name, image in zip(names, drawn, strict=True):
        save_png(tmp_path / name, image)
    images = open_images(tmp_path)
    assert (images.num_images, images.image_size) == (5, (8, 8))
    order = [names.index(name) for name in sorted(names)]
    assert np.array_equal(read(images), drawn[order])


def test_pngs_npz_and_shards_of_npz_give_the_same_batches(tmp_path: Path) -> None:
    drawn = pixels(11)
    sources = [
        save_pngs(tmp_path / "png", drawn),
        save_npz(tmp_path / "one.npz", images=drawn, labels=np.arange(11)),
        save_npz(tmp_path / "shards/0.npz", arr_0=drawn[:3]).parent,
    ]
    save_npz(tmp_path / "shards/1.npz", images=drawn[3:5])
    save_npz(tmp_path / "shards/2.npz", images=drawn[5:])
    for source in sources:
        batches = list(open_images(source).batches(4))
        assert [len(batch) for batch in batches] == [4, 4, 3]
        assert np.array_equal(torch.cat(batches).numpy(), drawn)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
def test_a_batch_size_changes_no_image(tmp_path: Path, batch_size: int) -> None:
    save_npz(tmp_path / "0.npz", images=pixels(3))
    save_npz(tmp_path / "1.npz", images=pixels(4, seed=1))
    images = open_images(tmp_path)
    assert np.array_equal(read(images, batch_size), read(images))


def test_a_batch_has_at_least_one_image(tmp_path: Path) -> None:
    images = open_images(save_pngs(tmp_path, pixels(2)))
    with pytest.raises(ValueError, match="at least one"):
        next(images.batches(0))


def test_gray_images_are_shown_as_colour(tmp_path: Path) -> None:
    drawn = pixels(3, channels=1)
    sources = [
        save_pngs(tmp_path / "png", drawn),
        save_npz(tmp_path / "gray.npz", images=drawn),
    ]
    for source in sources:
        assert np.array_equal(read(open_images(source)), drawn.repeat(3, axis=3))


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    save_pngs(tmp_path, pixels(2))
    (tmp_path / "README.md").write_text("Not an image.")
    (tmp_path / ".hidden.png").write_bytes(b"no")
    save_png(tmp_path / ".cache" / "x.png", pixels(1)[0])
    assert open_images(tmp_path).num_images == 2


def refused(path: Path, *words: str, allow_jpeg: bool = False) -> None:
    with pytest.raises(ImagesUnusable) as caught:
        open_images(path, allow_jpeg=allow_jpeg)
    for word in words:
        assert word in caught.value.detail
    assert caught.value.hint


def test_an_empty_or_missing_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no images in", "empty")
    refused(tmp_path / "nowhere", "nowhere")
    text = tmp_path / "list.txt"
    text.write_text("a.png")
    refused(text, "list.txt")


def test_mixed_sizes_are_refused_by_name(tmp_path: Path) -> None:
    save_pngs(tmp_path / "png", pixels(2))
    save_png(tmp_path / "png" / "odd.png", pixels(1, side=9)[0])
    refused(tmp_path / "png", "odd.png", "9 x 9", "8 x 8")
    save_npz(tmp_path / "npz" / "0.npz", images=pixels(2))
    save_npz(tmp_path / "npz" / "1.npz", images=pixels(2, side=9))
    refused(tmp_path / "npz", "1.npz", "9 x 9")


def test_gray_among_colour_is_refused(tmp_path: Path) -> None:
    save_pngs(tmp_path, pixels(2))
    save_png(tmp_path / "odd.png", pixels(1, channels=1)[0])
    refused(tmp_path, "odd.png", "gray")


def test_a_decompression_bomb_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(raw_png(width=2**16, height=2**16))
    refused(tmp_path, "bomb.png", "65536 x 65536")


@pytest.mark.parametrize("suffix", ["bmp", "gif", "tiff", "webp", "npy"])
def test_another_format_is_not_left_out_in_silence(tmp_path: Path, suffix: str) -> None:
    save_pngs(tmp_path, pixels(2))
    (tmp_path / f"odd.{suffix}").write_bytes(b"whatever")
    refused(tmp_path, f"odd.{suffix}")


def test_pngs_beside_npz_are_refused(tmp_path: Path) -> None:
    save_pngs(tmp_path, pixels(2))
    save_npz(tmp_path / "more.npz", images=pixels(2))
    refused(tmp_path, ".npz", ".png")


def test_jpeg_has_to_be_allowed(tmp_path: Path) -> None:
    Image.fromarray(pixels(1)[0]).save(tmp_path / "a.jpg", quality=90)
    refused(tmp_path, "a.jpg", "JPEG")
    found = read(open_images(tmp_path, allow_jpeg=True))
    with Image.open(tmp_path / "a.jpg") as image:
        assert np.array_equal(found[0], np.asarray(image))


def test_a_jpeg_in_four_colours_is_refused(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8)).save(tmp_path / "a.jpg")
    refused(tmp_path, "a.jpg", "CMYK", allow_jpeg=True)


def test_a_truncated_jpeg_is_found_when_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(pixels(1, side=64)[0]).save(path)
    path.write_bytes(path.read_bytes()[:-400])
    images = open_images(tmp_path, allow_jpeg=True)
    with pytest.raises(ImagesUnusable, match=r"a\.jpg cannot be decoded"):
        read(images)


def test_a_file_that_changes_after_the_look_is_noticed(tmp_path: Path) -> None:
    folder = save_pngs(tmp_path / "png", pixels(2))
    images = open_images(folder)
    save_png(folder / "001.png", pixels(1, side=9)[0])
    with pytest.raises(ImagesUnusable, match=r"001\.png"):
        read(images)
    images = open_images(save_pngs(folder, pixels(2)))
    save_png(folder / "001.png", pixels(1, channels=1)[0])
    with pytest.raises(ImagesUnusable, match=r"001\.png"):
        read(images)


def test_links_are_followed_inside_the_folder_only(tmp_path: Path) -> None:
    outside = save_png(tmp_path / "outside.png", pixels(1)[0])
    folder = save_pngs(tmp_path / "in", pixels(2))
    (folder / "again.png").symlink_to("000.png")
    assert open_images(folder).num_images == 3
    (folder / "out.png").symlink_to(outside)
    refused(folder, "out.png", "leaves")


def test_links_to_folders_are_refused(tmp_path: Path) -> None:
    folder = save_pngs(tmp_path / "in", pixels(2))
    (folder / "more").symlink_to(folder)
    refused(folder, "more", "link")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    refused(tmp_path, "a.png", "regular")

import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tcaq_core.errors import ImagesUnusable
from tcaq_core.evaluation.npz_images import open_npz
from tests.tcaq_core.evaluation.picture_files import pixels, save_npz


def refused(path: Path, *words: str) -> None:
    with pytest.raises(ImagesUnusable) as caught:
        open_npz(path, name=path.name)
    for word in (path.name, *words):
        assert word in caught.value.detail
    assert caught.value.hint


def save_member(path: Path, raw: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", raw)
    return path


def as_npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (pixels(2).astype(np.float32), "float32"),
        (pixels(2).astype(np.int8), "int8"),
        (pixels(2)[0], "(8, 8, 3)"),
        (pixels(2, channels=4), "(2, 8, 8, 4)"),
        (pixels(0), "(0, 8, 8, 3)"),
        (pixels(2, channels=1)[..., 0], "(2, 8, 8)"),
        (np.asfortranarray(pixels(2)), "column by column"),
    ],
    ids=["float", "signed", "single", "alpha", "none", "flat", "fortran"],
)
def test_another_dtype_or_shape_is_refused(
    tmp_path: Path, array: np.ndarray, words: str
) -> None:
    refused(save_npz(tmp_path / "a.npz", images=array), words)


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    objects = np.empty(1, dtype=object)
    objects[0] = Trap()
    refused(save_npz(tmp_path / "a.npz", images=objects), "pickled objects")
    assert not (tmp_path / "sprung").exists()


def test_an_archive_without_images_names_what_it_holds(tmp_path: Path) -> None:
    refused(save_npz(tmp_path / "a.npz", labels=pixels(2)), "labels")


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(b"PK no archive")
    refused(path)
    whole = save_npz(path, images=pixels(2)).read_bytes()
    path.write_bytes(whole[:-30])
    refused(path)


def test_a_member_that_is_no_array_is_refused(tmp_path: Path) -> None:
    refused(save_member(tmp_path / "a.npz", b"text"))


@pytest.mark.parametrize("extra", [-1, 1])
def test_bytes_that_the_header_does_not_declare_are_refused(
    tmp_path: Path, extra: int
) -> None:
    raw = as_npy(pixels(2))
    raw = raw + b"\0" if extra > 0 else raw[:extra]
    refused(save_member(tmp_path / "a.npz", raw), "bytes where its header declares")


def test_a_header_of_unknown_format_is_refused(tmp_path: Path) -> None:
    raw = bytearray(as_npy(pixels(2)))
    raw[6] = 9
    refused(save_member(tmp_path / "a.npz", bytes(raw)), "format")


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path: Path) -> None:
    path = save_member(tmp_path / "a.npz", as_npy(pixels(2)))
    raw = bytearray(path.read_bytes())
    raw[300] ^= 1
    path.write_bytes(raw)
    # A small member is read whole with its header.
    refused(path, "CRC")


def test_a_flipped_bit_far_in_is_found_when_it_is_decoded(tmp_path: Path) -> None:
    path = save_member(tmp_path / "a.npz", as_npy(pixels(100, side=32)))
    raw = bytearray(path.read_bytes())
    raw[200_000] ^= 1
    path.write_bytes(raw)
    found = open_npz(path, name="a.npz")
    with pytest.raises(ImagesUnusable, match="CRC"):
        list(found.blocks(2))


def test_an_archive_that_changes_after_the_look_is_noticed(tmp_path: Path) -> None:
    found = open_npz(save_npz(tmp_path / "a.npz", images=pixels(2)), name="a.npz")
    save_npz(tmp_path / "a.npz", images=pixels(3))
    with pytest.raises(ImagesUnusable, match="another shape"):
        list(found.blocks(2))


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    def peak(num_images: int) -> int:
        path = save_npz(tmp_path / "a.npz", images=pixels(num_images, side=32))
        found = open_npz(path, name="a.npz")
        tracemalloc.start()
        try:
            assert sum(len(block) for block in found.blocks(16)) == num_images
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # 6 MB of pixels.
    assert peak(2_000) < 1.2 * peak(200) < 1_000_000


def test_a_published_reference_batch_is_not_taken_for_its_data_set(
    tmp_path: Path,
) -> None:
    images = np.zeros((4, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "batch.npz", arr_0=images, mu=np.zeros(2), sigma=np.eye(2))
    with pytest.raises(ImagesUnusable, match="whole data set"):
        open_npz(tmp_path / "batch.npz", name="batch.npz")

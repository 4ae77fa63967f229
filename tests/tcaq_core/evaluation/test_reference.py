import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tcaq_core.errors import ImagesUnusable, ReferenceUnusable
from tcaq_core.evaluation.frechet import frechet_distance
from tcaq_core.evaluation.images import Images, open_images
from tcaq_core.evaluation.record import ReferenceUsed
from tcaq_core.evaluation.reference import load_reference, make_reference
from tcaq_core.evaluation.reference_file import read_reference
from tests.tcaq_core.evaluation.picture_files import pixels, save_npz, save_pngs
from tests.tcaq_core.evaluation.seeded_extractor import SeededExtractor

NUM_IMAGES = 30


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


def make(
    images: Images, out: Path, *, batch_size: int = 7, keep_features: bool = True
) -> ReferenceUsed:
    return make_reference(
        images,
        SeededExtractor(),
        out,
        name="tiny",
        keep_features=keep_features,
        batch_size=batch_size,
        progress=quiet,
    )


@pytest.fixture
def drawn() -> np.ndarray:
    return pixels(NUM_IMAGES)


@pytest.fixture
def images(drawn: np.ndarray, tmp_path: Path) -> Images:
    return open_images(save_npz(tmp_path / "images.npz", images=drawn))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "references" / "tiny.safetensors"


def test_statistics_are_those_of_all_features_at_once(
    images: Images, drawn: np.ndarray, out: Path
) -> None:
    used = make(images, out)
    found = load_reference(out, expected_sha256=used.stats_sha256)
    assert found.used == used == read_reference(out)
    features = SeededExtractor()(torch.from_numpy(drawn))
    assert features.spatial is not None
    assert found.spatial is not None
    for gaussian, values in (
        (found.pooled, features.pooled.double()),
        (found.spatial, features.spatial.double()),
    ):
        assert gaussian.n == NUM_IMAGES
        torch.testing.assert_close(gaussian.mean, values.mean(0), rtol=0, atol=1e-12)
        expected = torch.cov(values.T)
        torch.testing.assert_close(gaussian.covariance, expected, rtol=0, atol=1e-12)
    assert found.features is not None
    rows = found.features.rows(torch.arange(NUM_IMAGES))
    assert torch.equal(rows, features.pooled)


def test_the_header_says_what_it_was_made_of(
    images: Images, drawn: np.ndarray, out: Path
) -> None:
    used = make(images, out)
    info = used.info
    assert (info.name, info.n, info.image_size) == ("tiny", NUM_IMAGES, (8, 8))
    assert info.images_sha256 == hashlib.sha256(drawn.tobytes()).hexdigest()
    assert info.extractor == SeededExtractor().info
    assert (info.has_spatial, info.has_features) == (True, True)
    assert used.stats_sha256 == hashlib.sha256(out.read_bytes()).hexdigest()


def test_any_reader_of_safetensors_can_read_it(images: Images, out: Path) -> None:
    make(images, out)
    found = load_reference(out)
    with safe_open(out, framework="pt") as file:
        assert torch.equal(file.get_tensor("pooled.mean"), found.pooled.mean)
        assert torch.equal(
            file.get_tensor("pooled.covariance"), found.pooled.covariance
        )
        assert file.get_tensor("features").shape == (NUM_IMAGES, 6)


def test_the_same_images_give_the_same_bytes_however_they_lie(
    images: Images, drawn: np.ndarray, out: Path, tmp_path: Path
) -> None:
    make(images, out)
    others = [save_pngs(tmp_path / "png", drawn), tmp_path / "shards"]
    save_npz(tmp_path / "shards/0.npz", images=drawn[:11])
    save_npz(tmp_path / "shards/1.npz", images=drawn[11:])
    for source in others:
        again = tmp_path / "again.safetensors"
        make(open_images(source), again)
        assert again.read_bytes() == out.read_bytes()


def test_a_batch_size_moves_the_statistics_by_rounding_only(
    images: Images, out: Path, tmp_path: Path
) -> None:
    make(images, out)
    other = make(images, tmp_path / "other.safetensors", batch_size=1)
    first, second = (
        load_reference(path).pooled for path in (out, tmp_path / "other.safetensors")
    )
    assert frechet_distance(first, second) < 1e-12
    assert other.info.images_sha256 == load_reference(out).used.info.images_sha256


def test_features_can_be_left_out(images: Images, out: Path, tmp_path: Path) -> None:
    make(images, out)
    bare = tmp_path / "bare.safetensors"
    used = make(images, bare, keep_features=False)
    assert not used.info.has_features
    found = load_reference(bare)
    assert found.features is None
    assert torch.equal(found.pooled.mean, load_reference(out).pooled.mean)
    # False for true, and the description of the tensor.
    smaller = out.stat().st_size - bare.stat().st_size
    assert smaller >= NUM_IMAGES * 6 * 4


def test_as_many_images_as_features_are_refused_before_the_first_is_decoded(
    out: Path, tmp_path: Path
) -> None:
    folder = save_pngs(tmp_path / "few", pixels(7))
    make(open_images(folder), tmp_path / "enough.safetensors")
    (folder / "006.png").unlink()
    images = open_images(folder)
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(ImagesUnusable, match=r"6 images .* 6 features") as caught:
        make(images, out)
    assert "At least 7 images" in caught.value.hint
    assert not out.parent.exists()


def test_spatial_statistics_need_more_images_than_features(
    images: Images, out: Path
) -> None:
    for num_spatial, has_spatial in ((29, True), (30, False), (0, False)):
        extractor = SeededExtractor(num_features=8, num_spatial=num_spatial)
        used = make_reference(images, extractor, out, name="tiny", progress=quiet)
        assert used.info.has_spatial is has_spatial
        assert (load_reference(out).spatial is not None) is has_spatial


def test_images_of_another_size_are_refused_unread(out: Path, tmp_path: Path) -> None:
    images = open_images(save_pngs(tmp_path / "big", pixels(10, side=16)))
    with pytest.raises(ImagesUnusable, match="takes 8 x 8 images; these are 16 x 16"):
        make(images, out)
    anything = SeededExtractor(image_size=None)
    make_reference(images, anything, out, name="tiny", progress=quiet)
    assert read_reference(out).info.image_size == (16, 16)


def test_features_that_are_not_finite_leave_no_file(
    drawn: np.ndarray, out: Path, tmp_path: Path
) -> None:
    drawn[9] = 0
    images = open_images(save_npz(tmp_path / "a.npz", images=drawn))
    with pytest.raises(ImagesUnusable, match="Of images 7 to 13: An image is black"):
        make(images, out)
    assert list(out.parent.iterdir()) == []


def test_what_progress_raises_ends_it_and_leaves_the_older_file(
    images: Images, out: Path
) -> None:
    make(images, out)
    before = out.read_bytes()

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt(f"{done} of {total}")

    with pytest.raises(KeyboardInterrupt, match="7 of 30"):
        make_reference(
            images, SeededExtractor(), out, name="x", batch_size=7, progress=stop
        )
    assert out.read_bytes() == before
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_a_name_that_cannot_be_asked_for_is_refused(images: Images, out: Path) -> None:
    with pytest.raises(ValueError, match="name"):
        make_reference(images, SeededExtractor(), out, name="../x", progress=quiet)


def test_another_file_than_expected_is_refused(images: Images, out: Path) -> None:
    used = make(images, out)
    with pytest.raises(ReferenceUnusable, match="not the reference"):
        load_reference(out, expected_sha256="0" * 64)
    raw = bytearray(out.read_bytes())
    raw[-1] ^= 1
    out.write_bytes(raw)
    with pytest.raises(ReferenceUnusable, match=r"tiny\.safetensors is not the"):
        load_reference(out, expected_sha256=used.stats_sha256)
    with pytest.raises(ReferenceUnusable, match="cannot be used"):
        load_reference(out.with_name("none"), expected_sha256=used.stats_sha256)


@pytest.mark.parametrize(
    ("tensor", "value"),
    [
        ("pooled.mean", float("nan")),
        ("pooled.covariance", float("nan")),
        ("pooled.covariance", float("inf")),
        ("spatial.covariance", 1e9),
    ],
)
def test_statistics_that_cannot_be_are_refused(
    images: Images, out: Path, tensor: str, value: float
) -> None:
    make(images, out)
    with safe_open(out, framework="np") as file:
        old = file.get_tensor(tensor)
    new = old.copy()
    new.flat[1] = value
    out.write_bytes(out.read_bytes().replace(old.tobytes(), new.tobytes()))
    with pytest.raises(ReferenceUnusable, match=tensor):
        load_reference(out)


def peak_kilobytes(images: Images, out: Path) -> int:
    """Return the resident memory at its peak while a reference is made."""
    extractor = SeededExtractor(num_features=512, num_spatial=0)
    # 5: forget the peak so far.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    make_reference(images, extractor, out, name="x", progress=quiet)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0])


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    few = open_images(save_npz(tmp_path / "a.npz", images=pixels(1_000)))
    many = Images((*few.parts,) * 25, few.shape)
    out = tmp_path / "a.safetensors"
    # Once unmeasured: the allocator and the kernels take their own.
    peak_kilobytes(few, out)
    # 24,000 images more have 49 MB of features, here and again in float64.
    assert peak_kilobytes(many, out) - peak_kilobytes(few, out) < 25_000

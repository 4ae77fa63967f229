import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs.artifacts import LocalStore, StoredArtifact, make_store
from jobs.errors import ArtifactNotFound
from jobs.settings import Settings

DATA = b"weights" * 300_000
SHA256 = hashlib.sha256(DATA).hexdigest()
TAR = "application/x-tar"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


@pytest.fixture
def store(root: Path) -> LocalStore:
    return LocalStore(root)


def _files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def test_a_stored_file_is_named_by_its_sha256(
    store: LocalStore, root: Path, tmp_path: Path
) -> None:
    source = tmp_path / "checkpoint.tar"
    source.write_bytes(DATA)
    stored = store.put(source, media_type=TAR)
    assert stored == StoredArtifact(SHA256, size_bytes=len(DATA), media_type=TAR)
    assert _files(root) == [root / SHA256[:2] / SHA256]
    assert source.read_bytes() == DATA
    with store.open(SHA256) as file:
        assert file.read() == DATA


def test_bytes_are_stored_as_a_file_is(store: LocalStore) -> None:
    assert store.put_bytes(DATA, media_type=TAR).sha256 == SHA256
    path = store.path(SHA256)
    assert path is not None
    assert path.read_bytes() == DATA


def test_storing_the_same_bytes_again_changes_nothing(
    store: LocalStore, root: Path
) -> None:
    with ThreadPoolExecutor(8) as pool:
        stored = list(
            pool.map(lambda _: store.put_bytes(DATA, media_type=TAR), range(16))
        )
    assert len(set(stored)) == 1
    assert _files(root) == [root / SHA256[:2] / SHA256]


def test_a_file_that_a_disk_has_damaged_is_healed_by_storing_it_again(
    store: LocalStore, root: Path
) -> None:
    store.put_bytes(DATA, media_type=TAR)
    (root / SHA256[:2] / SHA256).write_bytes(b"damaged")
    store.put_bytes(DATA, media_type=TAR)
    with store.open(SHA256) as file:
        assert file.read() == DATA


def test_a_source_that_cannot_be_read_leaves_nothing_behind(
    store: LocalStore, root: Path, tmp_path: Path
) -> None:
    with pytest.raises(IsADirectoryError):
        store.put(tmp_path, media_type=TAR)
    assert not root.exists() or _files(root) == []


def test_another_user_may_read_what_the_worker_stored(store: LocalStore) -> None:
    store.put_bytes(DATA, media_type=TAR)
    path = store.path(SHA256)
    assert path is not None
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o644  # noqa: PTH116 - stat it is


@pytest.mark.parametrize(
    "name",
    ["", "0" * 64, "../../etc/passwd", SHA256.upper(), SHA256 + "\n", f"/{SHA256[1:]}"],
)
def test_any_other_name_is_no_artifact(store: LocalStore, name: str) -> None:
    store.put_bytes(DATA, media_type=TAR)
    assert not store.exists(name)
    assert store.path(name) is None
    with pytest.raises(ArtifactNotFound):
        store.open(name)


def test_a_file_stored_long_ago_is_deleted(store: LocalStore, root: Path) -> None:
    store.put_bytes(DATA, media_type=TAR)
    kept = store.put_bytes(b"kept", media_type=TAR)
    later = datetime.now(UTC) + timedelta(minutes=1)
    assert store.delete(SHA256, stored_before=later)
    assert not store.exists(SHA256)
    assert _files(root) == [root / kept.sha256[:2] / kept.sha256]
    assert not store.delete(SHA256, stored_before=later)


def test_a_file_that_was_stored_again_since_is_not_deleted(
    store: LocalStore, root: Path
) -> None:
    store.put_bytes(DATA, media_type=TAR)
    long_ago = datetime.now(UTC) - timedelta(days=1)
    os.utime(root / SHA256[:2] / SHA256, (0, 0))
    store.put_bytes(DATA, media_type=TAR)
    assert not store.delete(SHA256, stored_before=long_ago)
    assert store.exists(SHA256)


def test_what_is_no_sha256_names_nothing_to_delete(
    store: LocalStore, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.write_bytes(DATA)
    later = datetime.now(UTC) + timedelta(minutes=1)
    for name in ("../other", str(other), ""):
        assert not store.delete(name, stored_before=later)
    assert other.exists()


def test_the_store_is_the_folder_that_the_settings_name(tmp_path: Path) -> None:
    store = make_store(Settings(artifacts_url=str(tmp_path / "elsewhere")))
    store.put_bytes(DATA, media_type=TAR)
    assert (tmp_path / "elsewhere" / SHA256[:2] / SHA256).is_file()

import io
import os
import tarfile
from pathlib import Path

import pytest

from tcaq_core.errors import CheckpointShapeMismatch, CheckpointUnsafe
from worker.archive import pack, unpack

FILES = {
    "manifest.json": b"{}",
    "unet/config.json": b"[]",
    "unet/weights.safetensors": bytes(range(256)) * 5000,
    "unet/" + "deep/" * 30 + "long.json": b"x",
}


def _write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def _packed(folder: Path, target: Path) -> bytes:
    pack(folder, target)
    return target.read_bytes()


def _entry(name: str, **fields: object) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(entry, field, value)
    return entry


def _archive(*entries: tarfile.TarInfo) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for entry in entries:
            archive.addfile(entry, io.BytesIO(b"x" * entry.size))
    buffer.seek(0)
    return buffer


def test_a_folder_comes_back_as_it_was(tmp_path: Path) -> None:
    source = _write(tmp_path / "source", FILES)
    data = _packed(source, tmp_path / "checkpoint.tar")
    unpack(io.BytesIO(data), tmp_path / "target")
    found = {
        path.relative_to(tmp_path / "target").as_posix(): path.read_bytes()
        for path in (tmp_path / "target").rglob("*")
        if path.is_file()
    }
    assert found == FILES


def test_equal_files_give_equal_bytes_whoever_wrote_them_when(tmp_path: Path) -> None:
    one = _write(tmp_path / "one", FILES)
    other = _write(tmp_path / "other", dict(reversed(FILES.items())))
    for path in other.rglob("*"):
        path.chmod(0o700)
        os.utime(path, (1, 1))
    assert _packed(one, tmp_path / "1.tar") == _packed(other, tmp_path / "2.tar")


def test_any_tar_can_open_it_and_it_names_nobody(tmp_path: Path) -> None:
    pack(_write(tmp_path / "source", FILES), tmp_path / "checkpoint.tar")
    with tarfile.open(tmp_path / "checkpoint.tar") as archive:
        entries = archive.getmembers()
    assert [entry.name for entry in entries] == sorted(FILES)
    about = {(e.uid, e.gid, e.uname, e.gname, e.mtime, e.mode) for e in entries}
    assert about == {(0, 0, "", "", 0, 0o644)}


def test_a_link_is_not_packed(tmp_path: Path) -> None:
    source = _write(tmp_path / "source", FILES)
    (source / "passwords").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="passwords is neither"):
        pack(source, tmp_path / "checkpoint.tar")


@pytest.mark.parametrize(
    "entry",
    [
        _entry("/etc/cron.d/x", size=1),
        _entry("../outside", size=1),
        _entry("unet/../../outside", size=1),
        _entry(".", size=1),
        _entry("link", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        _entry("link", type=tarfile.LNKTYPE, linkname="manifest.json"),
        _entry("pipe", type=tarfile.FIFOTYPE),
        _entry("device", type=tarfile.CHRTYPE),
        _entry("folder", type=tarfile.DIRTYPE),
        _entry("sparse", type=tarfile.GNUTYPE_SPARSE),
    ],
    ids=lambda entry: f"{entry.name}-{entry.type.decode()}",
)
def test_nothing_but_plain_files_inside_the_folder_is_unpacked(
    tmp_path: Path, entry: tarfile.TarInfo
) -> None:
    target = tmp_path / "deep" / "target"
    target.mkdir(parents=True)
    with pytest.raises(CheckpointUnsafe):
        unpack(_archive(entry), target)
    assert list(target.iterdir()) == []
    assert list(tmp_path.iterdir()) == [tmp_path / "deep"]


def test_no_file_is_written_twice(tmp_path: Path) -> None:
    twice = _archive(_entry("a.json", size=1), _entry("a.json", size=2))
    with pytest.raises(CheckpointShapeMismatch):
        unpack(twice, tmp_path)


@pytest.mark.parametrize("kept", [0, 100, 700, 100_000])
def test_a_truncated_archive_is_refused(tmp_path: Path, kept: int) -> None:
    source = _write(tmp_path / "source", FILES)
    data = _packed(source, tmp_path / "checkpoint.tar")
    assert kept < len(data)
    with pytest.raises(CheckpointShapeMismatch):
        unpack(io.BytesIO(data[:kept]), tmp_path / "target")


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    # Uncompressed on purpose: a small file cannot unpack to a huge one.
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.addfile(_entry("a", size=1), io.BytesIO(b"x"))
    buffer.seek(0)
    with pytest.raises(CheckpointShapeMismatch):
        unpack(buffer, tmp_path)

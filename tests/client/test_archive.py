import tarfile
from pathlib import Path

import pytest

from tcaq_client.archive import unpack
from tcaq_client.errors import UnsafeArchive
from tests.client.answers import tar, tar_of

GOOD = {"manifest.json": b"{}", "unet/model.safetensors": b"weights"}


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "checkpoint.tar"
    path.write_bytes(content)
    return path


def test_plain_files_arrive_with_their_content(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "checkpoint"
    unpack(written(tmp_path, tar(GOOD)), folder)
    found = {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file()
    }
    assert found == GOOD


def test_the_folder_can_be_read_by_others(tmp_path: Path) -> None:
    unpack(written(tmp_path, tar(GOOD)), tmp_path / "checkpoint")
    assert (tmp_path / "checkpoint").stat().st_mode & 0o777 == 0o755


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    unpack(written(tmp_path, tar(GOOD)), tmp_path / "checkpoint")
    assert (tmp_path / "checkpoint" / "manifest.json").is_file()


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_what_exists_is_not_overwritten(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "checkpoint"
    if kind == "folder":
        folder.mkdir()
        (folder / "mine").write_text("precious")
    elif kind == "file":
        folder.write_text("precious")
    else:
        folder.symlink_to(tmp_path / "nowhere")
    archive = written(tmp_path, tar(GOOD))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileExistsError):
        unpack(archive, folder)
    assert sorted(tmp_path.rglob("*")) == before


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = link
    return info


@pytest.mark.parametrize(
    "bad",
    [
        member("/etc/passwd"),
        member("../outside"),
        member("unet/../../outside"),
        member("unet\\..\\outside"),
        member("../folder", tarfile.DIRTYPE),
        member("link", tarfile.SYMTYPE, "/etc"),
        member("link", tarfile.SYMTYPE, "manifest.json"),
        member("hard", tarfile.LNKTYPE, "manifest.json"),
        member("disk", tarfile.BLKTYPE),
        member("terminal", tarfile.CHRTYPE),
        member("pipe", tarfile.FIFOTYPE),
        member("manifest.json"),
        member("./manifest.json"),
        member("manifest.json/inside"),
        member("."),
    ],
    ids=lambda m: f"{m.name} {m.type!r} {m.linkname}",
)
def test_what_is_not_a_plain_file_inside_is_refused_and_nothing_written(
    tmp_path: Path, bad: tarfile.TarInfo
) -> None:
    archive = written(tmp_path, tar_of([(member("manifest.json"), b""), (bad, b"")]))
    with pytest.raises(UnsafeArchive) as caught:
        unpack(archive, tmp_path / "checkpoint")
    assert repr(bad.name) in caught.value.detail
    assert list(tmp_path.iterdir()) == [archive]


def test_a_sparse_file_cannot_declare_a_size_it_does_not_hold(tmp_path: Path) -> None:
    info = member("huge")
    info.pax_headers = {
        "GNU.sparse.map": "0,0",
        "GNU.sparse.size": str(2**50),
        "GNU.sparse.name": "huge",
    }
    with tarfile.open(
        tmp_path / "sparse.tar", "w", format=tarfile.PAX_FORMAT
    ) as archive:
        archive.addfile(info)
    with pytest.raises(UnsafeArchive, match="not a plain file"):
        unpack(tmp_path / "sparse.tar", tmp_path / "checkpoint")


@pytest.mark.parametrize(
    "content",
    [b"<html>not found</html>", tar(GOOD)[:700]],
    ids=["not a tar", "cut in the middle of a file"],
)
def test_a_broken_tar_leaves_nothing_behind(tmp_path: Path, content: bytes) -> None:
    archive = written(tmp_path, content)
    with pytest.raises(UnsafeArchive, match="not a readable tar"):
        unpack(archive, tmp_path / "checkpoint")
    assert list(tmp_path.iterdir()) == [archive]

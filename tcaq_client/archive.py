"""Unpack a checkpoint's tar without trusting it.

A checkpoint is plain files in plain folders. Everything that could reach outside
the destination, or be something else than data, is refused before a byte is written.
"""

import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tcaq_client.errors import UnsafeArchive

CHUNK_BYTES = 1 << 20


def unpack(archive: Path, folder: Path) -> None:
    """Unpack `archive` into the new `folder`, which appears complete or not at all.

    The files are written to a folder beside it, which is then renamed. An empty
    `folder` may exist already.

    Raises:
        UnsafeArchive: links, devices, absolute paths, '..', repeated names, or not a
            tar at all.
        FileExistsError: `folder` exists and holds something.
    """
    refuse_occupied(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(
        tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".new")
    )
    try:
        _extract(archive, beside)
        beside.chmod(0o755)  # mkdtemp makes a private folder
        refuse_occupied(folder)
        beside.replace(folder)
    except BaseException:
        shutil.rmtree(beside)
        raise


def refuse_occupied(folder: Path) -> None:
    """Check that a checkpoint may be put at `folder`.

    Raises:
        FileExistsError: it is a file, or a folder that holds something.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() or folder.is_symlink():
        raise FileExistsError(f"{folder} already exists; choose another folder.")


def _extract(archive: Path, root: Path) -> None:
    try:
        # Mode "r:" reads an uncompressed tar only: no decompression bombs.
        with tarfile.open(archive, mode="r:") as tar:
            for member, target in _checked(tar, root):
                target.parent.mkdir(parents=True, exist_ok=True)
                _write(tar, member, target)
    except tarfile.TarError as error:
        raise UnsafeArchive(
            f"The checkpoint is not a readable tar: {error}",
            hint="Download it again; if it stays so, the service stored it broken.",
        ) from error


def _checked(
    tar: tarfile.TarFile, root: Path
) -> Iterator[tuple[tarfile.TarInfo, Path]]:
    files: dict[PurePosixPath, tarfile.TarInfo] = {}
    for member in tar.getmembers():
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or "\\" in member.name:
            raise _unsafe(member, "its path leaves the folder")
        if member.isdir():
            continue
        # A sparse file declares any size it likes without holding it.
        if not member.isreg() or member.issparse():
            raise _unsafe(member, "it is not a plain file")
        if path in files or not path.parts:
            raise _unsafe(member, "its name is empty or comes twice")
        files[path] = member
    for path, member in files.items():
        if any(parent in files for parent in path.parents):
            raise _unsafe(member, "its path runs through another file")
    return ((member, root / path) for path, member in files.items())


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    source = tar.extractfile(member)
    if source is None:
        raise _unsafe(member, "it has no content")
    with source, target.open("xb") as file:
        shutil.copyfileobj(source, file, CHUNK_BYTES)
        file.flush()
        os.fsync(file.fileno())


def _unsafe(member: tarfile.TarInfo, reason: str) -> UnsafeArchive:
    return UnsafeArchive(
        f"The checkpoint holds {member.name!r}: {reason}.",
        hint="Nothing was unpacked. Do not use this checkpoint.",
    )

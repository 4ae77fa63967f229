"""A checkpoint folder as one deterministic tar, and back; nothing in it is trusted."""

import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

from tcaq_core.errors import CheckpointShapeMismatch, CheckpointUnsafe

MEDIA_TYPE: Final = "application/x-tar"


def pack(folder: Path, target: Path) -> None:
    """Write the folder's files to an uncompressed tar: equal files, equal bytes.

    Raises:
        ValueError: the folder holds something that is neither file nor folder.
    """
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise ValueError(f"{name} is neither a file nor a folder")
            if path.is_dir():
                continue
            entry = tarfile.TarInfo(name)
            entry.size = path.stat().st_size
            entry.mode = 0o644
            with path.open("rb") as file:
                archive.addfile(entry, file)


def unpack(source: BinaryIO, folder: Path) -> None:
    """Extract an archive that `pack` wrote into an empty folder.

    Raises:
        CheckpointUnsafe: a link, a device, a sparse file, or a name that leaves the
            folder; what stands before it in the archive may have been written.
        CheckpointShapeMismatch: truncated, or not a tar.
    """
    try:
        with tarfile.open(fileobj=source, mode="r:") as archive:
            for entry in archive:
                _extract(archive, entry, folder)
    except (tarfile.TarError, EOFError, FileExistsError) as error:
        raise CheckpointShapeMismatch(
            "The checkpoint is not a complete tar archive.",
            hint="Download or upload it again, and compare its SHA-256.",
        ) from error


def _extract(archive: tarfile.TarFile, entry: tarfile.TarInfo, folder: Path) -> None:
    name = PurePosixPath(entry.name)
    if (
        not entry.isreg()
        # A sparse file of a few bytes can claim to be terabytes.
        or entry.issparse()
        or name.is_absolute()
        or ".." in name.parts
        or not name.parts
        or "\0" in entry.name
    ):
        raise CheckpointUnsafe(
            f"The checkpoint has an entry that is not a plain file: {entry.name!r}.",
            hint="A checkpoint holds JSON and safetensors files only.",
        )
    content = archive.extractfile(entry)
    if content is None:
        raise tarfile.ReadError(f"{entry.name} has no content")
    target = folder.joinpath(*name.parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    with content, target.open("xb") as file:
        shutil.copyfileobj(content, file)
    if target.stat().st_size != entry.size:
        raise tarfile.ReadError(f"{entry.name} is truncated")

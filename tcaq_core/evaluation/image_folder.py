"""The files of a folder in a fixed order; nothing outside it is reached."""

import os
from collections.abc import Collection
from pathlib import Path

from tcaq_core.errors import ImagesUnusable


def list_files(folder: Path, *, known: Collection[str]) -> dict[str, Path]:
    """Return the files with a known suffix, subfolders too, sorted by relative path.

    Hidden files, hidden folders and files of other suffixes are passed over. A link to
    a file inside the folder is that file.

    Raises:
        ImagesUnusable: no such folder, none of these files in it, a link that leaves
            it, a link to a folder, or something that is not a regular file.
    """
    if not folder.is_dir():
        raise ImagesUnusable(
            f"{folder} is neither a folder nor a file.",
            hint="Give a folder of PNGs, an .npz file or a folder of them.",
        )
    root = folder.resolve()
    found: dict[str, Path] = {}
    for parent, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            _refuse_link(Path(parent, name))
        for name in files:
            path = Path(parent, name)
            if path.suffix.lower() in known and not name.startswith("."):
                relative = path.relative_to(folder).as_posix()
                found[relative] = _confined(path, relative, root=root)
    if not found:
        raise ImagesUnusable(
            f"There are no images in {folder}.",
            hint="Give a folder of PNGs, an .npz file or a folder of them.",
        )
    return dict(sorted(found.items()))


def _confined(path: Path, relative: str, *, root: Path) -> Path:
    resolved = path.resolve()
    if not resolved.is_relative_to(root):
        raise ImagesUnusable(
            f"{relative} is a link that leaves the folder.",
            hint="Copy the file into the folder.",
        )
    if not resolved.is_file():
        raise ImagesUnusable(f"{relative} is not a regular file.", hint="Move it away.")
    return resolved


def _refuse_link(folder: Path) -> None:
    if folder.is_symlink():
        raise ImagesUnusable(
            f"{folder.name} is a link to a folder.",
            hint="Links to folders are not followed: copy the folder here, or move "
            "the link away.",
        )


def _refuse(error: OSError) -> None:
    raise ImagesUnusable(
        f"{error.filename} cannot be read: {error.strerror}.",
        hint="Let this user read the whole folder.",
    ) from error

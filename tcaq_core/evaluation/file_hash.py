"""Hashes of files that are asked for again and again; torch-free."""

import hashlib
from functools import lru_cache
from pathlib import Path


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes.

    It is remembered by path, inode, modification time and size: a request that names a
    network of a hundred megabytes does not read them all.

    Raises:
        OSError: there is no such file, or it cannot be read.
    """
    state = path.stat()
    return _read(path, state.st_ino, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=256)
def _read(path: Path, inode: int, mtime_ns: int, size: int) -> str:
    del inode, mtime_ns, size
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

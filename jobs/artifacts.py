"""The artifact store: immutable files named by the SHA-256 of their bytes."""

import hashlib
import io
import os
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from jobs.errors import ArtifactNotFound
from jobs.settings import Settings

CHUNK_BYTES: Final = 2**20

_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class StoredArtifact:
    """What the store knows of a file; the ledger's `Artifact` row is made of it."""

    sha256: str
    size_bytes: int
    media_type: str


class ArtifactStore(Protocol):
    """Few methods, so that an object store can stand in for the local folder."""

    def put(self, source: Path, *, media_type: str) -> StoredArtifact:
        """Copy a file into the store; storing the same bytes again changes nothing."""
        ...

    def put_bytes(self, data: bytes, *, media_type: str) -> StoredArtifact:
        """Store bytes as a file."""
        ...

    def open(self, sha256: str) -> BinaryIO:
        """Open a stored file for reading.

        Raises:
            ArtifactNotFound: not a SHA-256, or nothing stored under it.
        """
        ...

    def path(self, sha256: str) -> Path | None:
        """Return the file on this machine's disk; None if there is none."""
        ...

    def exists(self, sha256: str) -> bool:
        """Return whether the store has it."""
        ...

    def delete(self, sha256: str, *, stored_before: datetime) -> bool:
        """Delete a file unless it was stored, or stored again, since then.

        Return whether it was deleted. Who stores a file names it in the ledger a
        moment later: a young file may be one that is about to be named.
        """
        ...


class LocalStore:
    """A store in a folder: ``<root>/ab/<sha256>``."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, source: Path, *, media_type: str) -> StoredArtifact:
        """Copy `source` into the store: written aside, synced, renamed."""
        with source.open("rb") as file:
            return self._write(file, media_type)

    def put_bytes(self, data: bytes, *, media_type: str) -> StoredArtifact:
        """Store bytes as a file."""
        return self._write(io.BytesIO(data), media_type)

    def open(self, sha256: str) -> BinaryIO:
        """Open a stored file for reading.

        Raises:
            ArtifactNotFound: not a SHA-256, or nothing stored under it.
        """
        path = self.path(sha256)
        if path is None:
            raise ArtifactNotFound(
                "The store has no artifact of that SHA-256.",
                hint="Take the SHA-256 from the job's result.",
            )
        return path.open("rb")

    def path(self, sha256: str) -> Path | None:
        """Return the stored file; None if there is none."""
        # The form is checked first: no request can name a path outside the root.
        if not _SHA256.fullmatch(sha256):
            return None
        path = self._locate(sha256)
        return path if path.is_file() else None

    def exists(self, sha256: str) -> bool:
        """Return whether the store has it."""
        return self.path(sha256) is not None

    def delete(self, sha256: str, *, stored_before: datetime) -> bool:
        """Delete a file unless it was stored, or stored again, since then."""
        path = self.path(sha256)
        with suppress(FileNotFoundError):  # another has just deleted it
            if path is not None and _stored_at(path) < stored_before:
                path.unlink()
                return True
        return False

    def _locate(self, sha256: str) -> Path:
        return self._root / sha256[:2] / sha256

    def _write(self, source: BinaryIO, media_type: str) -> StoredArtifact:
        self._root.mkdir(parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        descriptor, name = tempfile.mkstemp(prefix=".incoming-", dir=self._root)
        incoming = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as target:
                while chunk := source.read(CHUNK_BYTES):
                    digest.update(chunk)
                    size += target.write(chunk)
                target.flush()
                os.fsync(target.fileno())
            # mkstemp's 0600 would hide it from a service that runs as another user.
            incoming.chmod(0o644)
            sha256 = digest.hexdigest()
            path = self._locate(sha256)
            path.parent.mkdir(exist_ok=True)
            # Renaming also over an existing file heals one that a disk has damaged.
            incoming.replace(path)
        finally:
            incoming.unlink(missing_ok=True)
        _sync_folder(path.parent)
        return StoredArtifact(sha256=sha256, size_bytes=size, media_type=media_type)


def make_store(settings: Settings) -> ArtifactStore:
    """Return the store that the settings name."""
    return LocalStore(settings.artifacts_directory)


def _stored_at(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _sync_folder(folder: Path) -> None:
    # A rename survives a power cut only when its folder is synced, too.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Stored files as paths on this machine, for what reads them piece by piece."""

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

from jobs.artifacts import CHUNK_BYTES
from jobs.errors import ArtifactCorrupt
from worker.context import Context


class Files:
    """Gives paths that stay valid for the time of a ``with`` block.

    A store on this machine's disk is read where it is; of another, a file is copied.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        folder = TemporaryDirectory(prefix="files-", dir=self._context.scratch)
        self._copies = Path(self._stack.enter_context(folder))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def path(self, sha256: str) -> Path:
        """Return a file that holds the bytes that this SHA-256 promises.

        Raises:
            ArtifactNotFound: the store has none.
            ArtifactCorrupt: the stored bytes are others.
        """
        store, digest = self._context.store, hashlib.sha256()
        local = store.path(sha256)
        copy = None if local is not None else self._copies / sha256
        with store.open(sha256) as stored, ExitStack() as stack:
            target = None if copy is None else stack.enter_context(copy.open("wb"))
            while chunk := stored.read(CHUNK_BYTES):
                digest.update(chunk)
                if target is not None:
                    target.write(chunk)
        if digest.hexdigest() != sha256:
            raise ArtifactCorrupt(
                f"The stored file {sha256} is damaged.",
                hint="Submit the job again: what is damaged is made anew.",
            )
        found = copy or local
        assert found is not None  # noqa: S101 - one of the two is there
        return found

    def paths(self, names: Sequence[str]) -> tuple[Path, ...]:
        """Return the files of several SHA-256s, in order; raises as `path`."""
        return tuple(map(self.path, names))

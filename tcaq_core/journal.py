"""What a job has finished, kept where another worker can go on from it.

An entry is one safetensors file. Its header carries the fingerprint of everything
that decides its content, and a SHA-256 of that content: an entry of other weights,
another recipe, other calibration data, another machine or other code is refused, and
so is a damaged one; neither is ever mixed with what belongs together.

Files are written aside, synced and renamed, so a process that dies leaves an entry
whole or not at all. Two processes that both believe they hold a job do no harm: what
they write under one name is equal, and each rename replaces a whole file by another.
"""

import hashlib
import json
import os
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tcaq_core.errors import ResumeRefused

FORMAT: Final = 1
# One key: safetensors writes several in an order that differs from run to run.
HEADER: Final = "entry"

_NAME: Final = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*", re.ASCII)


@dataclass(frozen=True)
class Entry:
    """What was saved under one name."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)
    """Anything else, as JSON."""


class Journal(ABC):
    """Entries by name; names are paths like ``par/round-0/mid_block.resnets.0``."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Return whether there is an entry of that name, without reading it."""

    @abstractmethod
    def read(self, name: str) -> Entry | None:
        """Return an entry; None if there is none.

        Raises:
            ResumeRefused: it is damaged, or its fingerprint is another.
        """

    @abstractmethod
    def write(self, name: str, entry: Entry) -> None:
        """Save an entry, in place of any that is there."""

    @abstractmethod
    def reached(self, name: str) -> None:
        """Take note that the job stands behind an entry which it did not work for."""

    @abstractmethod
    def under(self, digest: str) -> "Journal":
        """Return this journal for entries that also depend on what `digest` names."""


class NoJournal(Journal):
    """Keeps nothing: for runs that nobody would resume."""

    def has(self, name: str) -> bool:
        """Return False."""
        del name
        return False

    def read(self, name: str) -> Entry | None:
        """Return None."""
        del name
        return None

    def write(self, name: str, entry: Entry) -> None:
        """Forget the entry."""

    def reached(self, name: str) -> None:
        """Never happens: there are no entries."""

    def under(self, digest: str) -> "NoJournal":
        """Return this journal."""
        del digest
        return self


@dataclass(frozen=True)
class FolderJournal(Journal):
    """Entries as files of a folder that whoever resumes the job can read, too."""

    folder: Path
    fingerprint: str
    resumed: Callable[[str], None] = lambda _name: None
    """Called with the name of each entry that the job goes on from."""

    def has(self, name: str) -> bool:
        """Return whether there is a file for the entry."""
        return self._path(name).is_file()

    def read(self, name: str) -> Entry | None:
        """Return an entry whose fingerprint and SHA-256 are right; None if absent.

        Raises:
            ResumeRefused: it is damaged, or its fingerprint is another.
        """
        try:
            with safe_open(self._path(name), framework="pt") as file:
                header = json.loads(file.metadata()[HEADER])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            fingerprint, facts = header["fingerprint"], header["facts"]
            is_whole = header == _header(name, fingerprint, facts, tensors)
        except FileNotFoundError:
            return None
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise _refused(name, "is not readable") from error
        if not is_whole:
            raise _refused(name, "is not what was written")
        if fingerprint != self.fingerprint:
            raise _refused(
                name, "belongs to other weights, calibration data, settings or code"
            )
        return Entry(tensors, facts)

    def write(self, name: str, entry: Entry) -> None:
        """Write a file aside, sync it, rename it; a reader sees all of it or none."""
        tensors = {k: t.detach().cpu().contiguous() for k, t in entry.tensors.items()}
        # As it will be read back: tuples become lists.
        facts = json.loads(json.dumps(entry.facts))
        header = json.dumps(_header(name, self.fingerprint, facts, tensors))
        try:
            self._put(self._path(name), tensors, header)
        except FileNotFoundError:
            # Another job with this fingerprint ended and swept the folder just now.
            self._put(self._path(name), tensors, header)

    def _put(self, path: Path, tensors: Mapping[str, Tensor], header: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, aside = tempfile.mkstemp(prefix=".incoming-", dir=path.parent)
        os.close(descriptor)
        incoming = Path(aside)
        try:
            save_file(dict(tensors), incoming, metadata={HEADER: header})
            # mkstemp's 0600 would hide it from a worker that runs as another user.
            incoming.chmod(0o644)
            _sync(incoming)
            incoming.replace(path)
        finally:
            incoming.unlink(missing_ok=True)
        # A rename survives a power cut only when its folder is synced, too.
        _sync(path.parent)

    def reached(self, name: str) -> None:
        """Call `resumed`."""
        self.resumed(name)

    def under(self, digest: str) -> "FolderJournal":
        """Return the journal of the same folder with a fingerprint that binds both."""
        both = _sha256(f"{self.fingerprint} {digest}".encode())
        return FolderJournal(self.folder, both, self.resumed)

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot name an entry")
        return self.folder / f"{name}.safetensors"


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a hex SHA-256 over names, types, shapes and values of tensors."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key].detach().cpu().contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _header(
    name: str, fingerprint: str, facts: object, tensors: Mapping[str, Tensor]
) -> dict[str, Any]:
    described = {
        "format": FORMAT,
        "name": name,
        "fingerprint": fingerprint,
        "facts": facts,
    }
    text = f"{json.dumps(described, sort_keys=True)} {tensors_digest(tensors)}"
    return described | {"sha256": _sha256(text.encode())}


def _refused(name: str, why: str) -> ResumeRefused:
    return ResumeRefused(
        f"The saved part {name} of this job {why}.",
        hint="Nothing of it was used. Submit the job again: it starts from the "
        "beginning.",
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Fetch a large file: resumed where it broke off, verified before it is used."""

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import httpx2

from tcaq_client.errors import (
    ChecksumMismatch,
    ConnectionFailed,
    Problem,
    UnexpectedAnswer,
)
from tcaq_client.exchange import BACKOFF_SECONDS, RETRIED, Exchange

OnBytes = Callable[[int, int | None], None]
"""Called with the bytes that have arrived and the total, if it is known."""

_ETAG: Final = re.compile(r'"(?P<sha256>[0-9a-f]{64})"')


@dataclass
class _Part:
    """What has arrived so far: a file named after the content it will hold.

    The name makes a part found on disk safe to continue in another process: the
    request says which content it continues, and the service sends the rest of that
    content or all of the new one.
    """

    folder: Path
    name: str
    sha256: str | None = None

    @property
    def path(self) -> Path:
        return self.folder / f".{self.name}.{self.sha256}.part"

    @property
    def num_bytes(self) -> int:
        """Bytes on disk; the part may not exist yet."""
        return self.path.stat().st_size if self.sha256 and self.path.exists() else 0

    def find(self) -> None:
        """Continue the part that an earlier process left, if there is one."""
        pattern = re.compile(rf"\.{re.escape(self.name)}\.([0-9a-f]{{64}})\.part")
        for path in sorted(self.folder.iterdir()):
            if match := pattern.fullmatch(path.name):
                self.sha256 = match[1]


def fetch(
    exchange: Exchange, path: str, *, folder: Path, name: str, on_bytes: OnBytes
) -> Path:
    """Fetch `path` of the service to a verified temporary file in `folder`.

    A transfer that breaks off is continued with Range, as often as bytes keep
    arriving; what has arrived survives in `folder` for the next call with this
    `name`. The caller removes the returned file.

    Raises:
        ChecksumMismatch: the content is not the one its ETag names; it is removed.
        ConnectionFailed: several attempts in a row brought nothing.
        Problem: the service refused.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part = _Part(folder, name)
    part.find()
    fruitless = 0
    while True:
        before = part.num_bytes
        try:
            _continue(exchange, path, part, on_bytes)
            break
        except (ConnectionFailed, Problem) as error:
            if isinstance(error, Problem) and error.status not in RETRIED:
                raise
            fruitless = 0 if part.num_bytes > before else fruitless + 1
            if fruitless > len(BACKOFF_SECONDS):
                raise
            exchange.sleep(BACKOFF_SECONDS[max(fruitless - 1, 0)])
    return _verified(part)


def _continue(exchange: Exchange, path: str, part: _Part, on_bytes: OnBytes) -> None:
    start = part.num_bytes
    # Without this, a proxy may compress and the byte positions mean nothing.
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": f'"{part.sha256}"'}
    try:
        with exchange.stream(path, headers=headers) as response:
            _receive(response, part, on_bytes)
    except Problem as problem:
        # All bytes had arrived already: there is nothing after the last one.
        if problem.status != 416:
            raise


def _receive(response: httpx2.Response, part: _Part, on_bytes: OnBytes) -> None:
    match = _ETAG.fullmatch(response.headers.get("ETag", ""))
    if match is None:
        raise UnexpectedAnswer(
            f"{response.url} has no ETag that names its SHA-256.",
            hint="Is this the service's URL, and its version that of this client?",
        )
    if response.status_code == 206 and match["sha256"] == part.sha256:
        arrived = part.num_bytes
    else:
        part.path.unlink(missing_ok=True)  # the rest of it will never come
        part.sha256, arrived = match["sha256"], 0
    length = response.headers.get("Content-Length")
    total = arrived + int(length) if length else None
    with part.path.open("ab" if arrived else "wb") as file:
        for chunk in response.iter_raw():
            file.write(chunk)
            arrived += len(chunk)
            on_bytes(arrived, total)
        _sync(file)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _verified(part: _Part) -> Path:
    with part.path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != part.sha256:
        part.path.unlink()
        raise ChecksumMismatch(
            f"The service announced sha256 {part.sha256}; {actual} arrived.",
            hint="Download it again; if it stays so, the service stored it broken.",
        )
    return part.path

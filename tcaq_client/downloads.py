"""What a job made, fetched to a place that appears complete or not at all."""

import hashlib
from pathlib import Path

from tcaq_client.archive import refuse_occupied, unpack
from tcaq_client.errors import ChecksumMismatch
from tcaq_client.exchange import Exchange
from tcaq_client.transfer import OnBytes, fetch


def download_folder(
    exchange: Exchange, path: str, folder: Path, on_bytes: OnBytes | None
) -> Path:
    """Fetch the tar at `path` of the service and unpack it into the new `folder`.

    Raises:
        FileExistsError: `folder` exists and holds something.
        ChecksumMismatch: what arrived is not what the service announced.
        UnsafeArchive: links, devices, or paths that leave the folder.
    """
    folder = folder.absolute()
    refuse_occupied(folder)
    archive = _fetch(exchange, path, folder, on_bytes)
    try:
        unpack(archive, folder)
    finally:
        archive.unlink()
    return folder


def download_file(
    exchange: Exchange, path: str, file: Path, on_bytes: OnBytes | None
) -> Path:
    """Fetch `path` of the service to the new `file`.

    Raises:
        FileExistsError: `file` exists.
        ChecksumMismatch: what arrived is not what the service announced.
    """
    file = file.absolute()
    refuse_occupied(file)
    return _fetch(exchange, path, file, on_bytes).replace(file)


def read_artifact(exchange: Exchange, sha256: str) -> bytes:
    """Return the bytes of a small artifact.

    Raises:
        ChecksumMismatch: what arrived is something else.
    """
    content = exchange.get(f"/artifacts/{sha256}/content").content
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256:
        raise ChecksumMismatch(
            f"The image {sha256} arrived as {actual}.", hint="Fetch it again."
        )
    return content


def _fetch(
    exchange: Exchange, path: str, target: Path, on_bytes: OnBytes | None
) -> Path:
    return fetch(
        exchange,
        path,
        folder=target.parent,
        name=target.name,
        on_bytes=on_bytes or (lambda _arrived, _total: None),
    )

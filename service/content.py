"""Stream an artifact: ETag, 304, single ranges, HEAD."""

from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from typing import BinaryIO, Final

import anyio.to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from jobs.artifacts import ArtifactStore
from jobs.errors import ArtifactCorrupt
from jobs.models import Artifact
from service.byte_ranges import Span, matches, select

CHUNK_BYTES: Final = 256 * 1024
SUFFIXES: Final[Mapping[str, str]] = {
    "application/json": ".json",
    "application/x-tar": ".tar",
    "application/vnd.tcaq.images+tar": ".tar",
    "image/png": ".png",
}


class FileSpan(StreamingResponse):
    """A response that reads `span` of a file that is open, and closes it."""

    def __init__(
        self, file: BinaryIO, span: Span, *, status: int, headers: Mapping[str, str]
    ) -> None:
        super().__init__(self._chunks(file, span), status, headers)
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; a caller who leaves in the middle is not an error."""
        try:
            await super().__call__(scope, receive, send)
        except ClientDisconnect:
            pass
        finally:
            self._file.close()

    @staticmethod
    async def _chunks(file: BinaryIO, span: Span) -> AsyncIterator[bytes]:
        left = span.length
        await anyio.to_thread.run_sync(file.seek, span.start)
        while left > 0:
            chunk = await anyio.to_thread.run_sync(_read, file, min(left, CHUNK_BYTES))
            left -= len(chunk)
            yield chunk


def _read(file: BinaryIO, num_bytes: int) -> bytes:
    # Content-Length is sent already, so that breaking off tells the caller. Not as an
    # OSError: Starlette takes that for a caller who has left, and stays silent.
    try:
        chunk = file.read(num_bytes)
    except OSError as error:
        raise _corrupt("A stored artifact cannot be read.") from error
    if not chunk:
        raise _corrupt("A stored artifact is shorter than the ledger says.")
    return chunk


def _corrupt(detail: str) -> ArtifactCorrupt:
    return ArtifactCorrupt(detail, hint="Run the job again, and check the disk.")


def artifact_response(
    request: Request,
    store: ArtifactStore,
    artifact: Artifact,
    *,
    filename: str | None = None,
    extra: Mapping[str, str] | None = None,
) -> Response:
    """Answer a GET or HEAD with 200, 206 or 304 and the bytes that are asked for.

    Raises:
        ArtifactNotFound: the store does not have what the ledger knows.
        RangeUnsatisfiable: the range lies outside the content.
    """
    headers = {**_headers(artifact, filename), **(extra or {})}
    etag, size = headers["ETag"], artifact.size_bytes
    if matches(request.headers.get("if-none-match"), etag):
        kept = ("ETag", "Cache-Control", "Content-Location")
        known = {name: headers[name] for name in kept if name in headers}
        return Response(status_code=304, headers=known)
    part = select(request.headers, etag=etag, size=size)
    if part is not None:
        headers["Content-Range"] = part.content_range
    span = part or Span(0, size, size)
    headers["Content-Length"] = str(span.length)
    status = 200 if part is None else 206
    file = store.open(artifact.sha256)
    if request.method == "HEAD":
        file.close()
        return Response(status_code=status, headers=headers)
    return FileSpan(file, span, status=status, headers=headers)


def new_artifact_response(
    store: ArtifactStore,
    artifact: Artifact,
    *,
    filename: str,
    extra: Mapping[str, str],
) -> Response:
    """Answer a POST with all the bytes of what it made; no condition applies to that.

    Raises:
        ArtifactNotFound: the store does not have what the ledger knows.
    """
    headers = {**_headers(artifact, filename), **extra}
    del headers["Accept-Ranges"]
    span = Span(0, artifact.size_bytes, artifact.size_bytes)
    headers["Content-Length"] = str(span.length)
    return FileSpan(store.open(artifact.sha256), span, status=200, headers=headers)


def _headers(artifact: Artifact, filename: str | None) -> dict[str, str]:
    digest = b64encode(bytes.fromhex(artifact.sha256)).decode("ascii")
    name = filename or artifact.sha256
    kind = "inline" if artifact.media_type.startswith("image/") else "attachment"
    return {
        "Content-Type": artifact.media_type,
        "ETag": f'"{artifact.sha256}"',
        "Repr-Digest": f"sha-256=:{digest}:",
        "Accept-Ranges": "bytes",
        "Content-Disposition": (
            f'{kind}; filename="{name}{SUFFIXES.get(artifact.media_type, "")}"'
        ),
        # Named by its content, so it can never change.
        "Cache-Control": "private, max-age=31536000, immutable",
        "X-Content-Type-Options": "nosniff",
    }

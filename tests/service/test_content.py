import io

import anyio
import pytest
from starlette.types import Message

from jobs.errors import ArtifactCorrupt
from service.byte_ranges import Span
from service.content import CHUNK_BYTES, FileSpan


def send_span(file: io.BytesIO, span: Span, *, leave_after: int = 10**9) -> list[bytes]:
    """Answer with a span and return the chunks; the caller leaves after some."""
    chunks: list[bytes] = []

    async def send(message: Message) -> None:
        if len(chunks) >= leave_after:
            raise OSError("the caller is gone")
        if message["type"] == "http.response.body" and message["body"]:
            chunks.append(message["body"])

    async def receive() -> Message:
        await anyio.sleep_forever()
        raise AssertionError("unreachable")

    async def run() -> None:
        response = FileSpan(file, span, status=200, headers={})
        scope = {"type": "http", "asgi": {"spec_version": "2.4"}}
        await response(scope, receive, send)

    anyio.run(run)
    return chunks


def test_a_large_file_is_sent_in_chunks_and_closed() -> None:
    size = 3 * CHUNK_BYTES + 5
    data = bytes(size)
    file = io.BytesIO(data)
    chunks = send_span(file, Span(1, size, size))
    assert [len(chunk) for chunk in chunks] == [CHUNK_BYTES] * 3 + [4]
    assert file.closed


def test_a_caller_who_leaves_in_the_middle_is_no_error_and_the_file_is_closed() -> None:
    size = 4 * CHUNK_BYTES
    file = io.BytesIO(bytes(size))
    assert len(send_span(file, Span(0, size, size), leave_after=1)) == 1
    assert file.closed


def test_a_file_that_is_too_short_breaks_the_transfer_off() -> None:
    file = io.BytesIO(b"short")
    with pytest.raises(ArtifactCorrupt, match="shorter than the ledger says"):
        send_span(file, Span(0, 100, 100))
    assert file.closed

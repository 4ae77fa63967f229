from collections.abc import Iterator

import anyio
from starlette.requests import Request
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from jobs.settings import Settings
from service.app import create_app
from service.body_limit import BodyLimitMiddleware, BodyTooLarge
from tests.service import ledger

LIMIT = 1000
JSON = {"Content-Type": "application/json"}


def small(settings: Settings) -> TestClient:
    """Return a client of a service that takes bodies of `LIMIT` bytes."""
    return TestClient(create_app(settings.model_copy(update={"max_body_bytes": LIMIT})))


def padded(num_bytes: int) -> bytes:
    """Return a legal body of exactly that size."""
    body = b'{"model":"tiny","weight_bits":4,"activation_bits":8}'
    return body + b" " * (num_bytes - len(body))


def test_a_body_of_the_limit_is_taken_and_one_byte_more_is_a_413(
    settings: Settings,
) -> None:
    with small(settings) as client:
        taken = client.post("/jobs", content=padded(LIMIT), headers=JSON)
        assert taken.status_code == 202
        refused = client.post("/jobs", content=padded(LIMIT + 1), headers=JSON)
    assert refused.status_code == 413
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json()["code"] == "body_too_large"
    assert str(LIMIT) in refused.json()["detail"]
    assert refused.json()["request_id"] == refused.headers["X-Request-Id"]
    assert len(ledger.messages(settings)) == 1


def test_a_chunked_body_is_counted_as_it_comes(settings: Settings) -> None:
    def chunks() -> Iterator[bytes]:
        yield padded(LIMIT)
        yield b" "

    with small(settings) as client:
        refused = client.post("/jobs", content=chunks(), headers=JSON)
    assert "Content-Length" not in refused.request.headers
    assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")
    assert ledger.messages(settings) == []


def test_a_declared_length_is_refused_also_where_no_body_is_read(
    settings: Settings,
) -> None:
    with small(settings) as client:
        response = client.request("GET", "/healthz", content=padded(LIMIT + 1))
    assert response.status_code == 413


def test_an_endless_body_is_read_up_to_the_limit_only() -> None:
    taken: list[Message] = []
    refused: list[int] = []

    async def endless() -> Message:
        message = {"type": "http.request", "body": b"x" * 300, "more_body": True}
        taken.append(message)
        return message

    async def reader(scope: Scope, receive: Receive, _send: Send) -> None:
        try:
            await Request(scope, receive).body()
        except BodyTooLarge as error:
            refused.append(error.status_code)

    async def ignore(_message: Message) -> None:
        pass

    async def run() -> None:
        limited = BodyLimitMiddleware(reader, limit_bytes=LIMIT)
        await limited({"type": "http", "headers": []}, endless, ignore)

    anyio.run(run)
    assert refused == [413]
    assert len(taken) == 4

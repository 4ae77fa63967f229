from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx2
import pytest

from tcaq_client import Client

Handler = Callable[[httpx2.Request], httpx2.Response]
Connect = Callable[[Handler], Client]


@pytest.fixture
def pauses() -> list[float]:
    """Every pause that a client of `connect` made, in seconds."""
    return []


@pytest.fixture
def connect(pauses: list[float]) -> Iterator[Connect]:
    """Return a client whose service is a function, and whose pauses take no time."""
    with ExitStack() as stack:

        def make(handler: Handler) -> Client:
            client = Client(
                "http://service",
                transport=httpx2.MockTransport(handler),
                sleep=pauses.append,
            )
            return stack.enter_context(client)

        yield make


def in_turn(*answers: httpx2.Response) -> Handler:
    """Return a service that gives these answers, whatever it is asked."""
    queue = iter(answers)

    def answer(_: httpx2.Request) -> httpx2.Response:
        return next(queue)

    return answer

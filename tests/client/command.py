"""The command `tcaq` against a service that is a function."""

from typing import Any

import httpx2
from typer.testing import CliRunner, Result

from tcaq_client import Client
from tcaq_client.cli import app
from tests.client.answers import PNG, sample
from tests.client.conftest import Handler


def run(handler: Handler, *arguments: str, **options: Any) -> Result:  # noqa: ANN401
    """Run the command against a service that is a function."""

    def connect(url: str) -> Client:
        transport = httpx2.MockTransport(handler)
        return Client(url, transport=transport, sleep=lambda _: None)

    return CliRunner().invoke(app, [*arguments], obj=connect, **options)


def always(status: int, document: object) -> Handler:
    return lambda _: httpx2.Response(status, json=document)


def documents(*answers: object) -> Handler:
    """Return a service that answers with these, one after the other."""
    queue = iter(answers)
    return lambda _: httpx2.Response(200, json=next(queue))


def drawing(request: httpx2.Request) -> httpx2.Response:
    if request.url.path == "/sample":
        return httpx2.Response(200, json=sample())
    return httpx2.Response(200, content=PNG)


def refuse_connection(_: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("Connection refused")

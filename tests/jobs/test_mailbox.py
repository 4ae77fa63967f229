import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu.connection import Connection
from kombu.exceptions import ChannelError

from jobs.mailbox import Transport
from jobs.queue import make_celery
from jobs.settings import Settings

NUM_MESSAGES = 400


def make_channel(connection: Any) -> Any:  # noqa: ANN401 - kombu has few types
    return connection.channel()


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    app = make_celery(Settings(data_directory=tmp_path, database_url=None))
    with app.connection() as opened:
        assert isinstance(opened.transport, Transport)
        yield opened
    app.close()


def test_messages_come_out_in_the_order_they_went_in(connection: Connection) -> None:
    channel: Any = connection.default_channel
    for number in range(20):
        channel._put("quantize", {"number": number})
    found = [channel._get("quantize")["number"] for _ in range(20)]
    assert found == list(range(20))


def test_a_consumer_never_meets_half_a_message(connection: Connection) -> None:
    channel: Any = connection.default_channel
    other: Any = make_channel(connection)
    payload = {"body": "x" * 100_000}

    def write() -> None:
        for _ in range(NUM_MESSAGES):
            other._put("quantize", payload)

    writer = threading.Thread(target=write)
    writer.start()
    found = 0
    while found < NUM_MESSAGES:
        if channel._size("quantize"):
            assert channel._get("quantize") == payload
            found += 1
    writer.join()


def test_a_folder_that_cannot_be_written_is_an_error_of_the_channel(
    connection: Connection, tmp_path: Path
) -> None:
    channel: Any = connection.default_channel
    messages = tmp_path / "broker" / "messages"
    messages.rmdir()
    with pytest.raises(ChannelError):
        channel._put("quantize", {})

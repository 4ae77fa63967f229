"""The embedded broker: kombu's filesystem transport with whole messages only."""

import json
import os
import time
import uuid
from pathlib import Path
from typing import Any, Final

from kombu.exceptions import ChannelError
from kombu.transport import filesystem

LONGEST_WAIT_SECONDS: Final = 0.5


class Channel(filesystem.Channel):
    """A channel whose messages appear in the folder complete or not at all."""

    def _put(self, queue: str, payload: dict[str, Any], **_kwargs: Any) -> None:  # type: ignore[override] # noqa: ANN401 - as kombu's own override
        # kombu opens the file under its final name and then writes it: a consumer that
        # looks in between reads an empty message and dies of it.
        folder = Path(self.data_folder_out)
        name = f"{time.monotonic_ns():020d}_{uuid.uuid4().hex}"
        incoming = folder / f".{name}"
        try:
            incoming.write_text(json.dumps(payload), encoding="utf-8")
            os.replace(incoming, folder / f"{name}.{queue}.msg")  # noqa: PTH105
        except OSError as error:
            incoming.unlink(missing_ok=True)
            raise ChannelError(f"cannot write a message to {folder}") from error


class Transport(filesystem.Transport):
    """kombu's filesystem transport over that channel."""

    Channel = Channel

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:  # type: ignore[override] # noqa: ANN401 - kombu's
        """Wait for a message, but not for long: Celery sees a signal in between."""
        longest = LONGEST_WAIT_SECONDS if timeout is None else timeout
        super().drain_events(connection, min(longest, LONGEST_WAIT_SECONDS))  # type: ignore[no-untyped-call]

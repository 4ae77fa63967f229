"""How the process that works on a job leaves when Celery tells it to."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def leaves_in_order() -> Iterator[None]:
    """Turn the first SIGTERM into SystemExit, ignore more, and end the process then.

    Call it in the main thread of a pool's child. Celery's cold shutdown signals twice,
    and billiard lets the second signal kill: that would come in the middle of giving
    the job back. billiard's own farewell is left out, because its parent answers it
    with another SIGTERM, which billiard masks in the main thread only; torch has more
    threads, so the child can die holding a lock that the parent then waits for.
    """

    def leave(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(os.EX_OK)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except SystemExit:
        os._exit(os.EX_OK)
    finally:
        signal.signal(signal.SIGTERM, before)

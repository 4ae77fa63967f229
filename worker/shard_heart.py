"""A shard's heartbeat: a thread that keeps its lease and learns when to stop."""

import threading
from types import TracebackType
from typing import Self

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from jobs.errors import LeaseLost
from jobs.shards import ShardLease, beat_shard
from tcaq_core.errors import Interrupted
from worker.clock import utc_now
from worker.heart import StopReason

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class ShardHeart:
    """Beats while the ``with`` block runs; `check` tells the work when to stop."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        lease: ShardLease,
        *,
        heartbeat_seconds: float,
    ) -> None:
        self._sessions = sessions
        self._lease = lease
        self._heartbeat_seconds = heartbeat_seconds
        self._ended = threading.Event()
        self._stop: StopReason | None = None
        self._thread = threading.Thread(target=self._run, name="shard", daemon=True)

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the work must stop; None: go on."""
        return self._stop

    def check(self) -> None:
        """Return if the work may go on.

        Raises:
            Interrupted: it must stop; `stop_reason` says why.
        """
        if self._stop is not None:
            raise Interrupted(
                f"The shard stops: {self._stop.value}.", hint="Nothing is left to do."
            )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        # Also one that nobody wants is held until the work has really stopped.
        while self._stop is not StopReason.LEASE_LOST and not self._ended.wait(
            self._heartbeat_seconds
        ):
            self._beat()

    def _beat(self) -> None:
        try:
            with self._sessions.begin() as session:
                is_wanted = beat_shard(session, self._lease, now=utc_now())
        except LeaseLost:
            self._stop = StopReason.LEASE_LOST
        except SQLAlchemyError as error:
            # The database may be back before the lease has run out.
            _logger.warning(
                "heartbeat failed",
                set=self._lease.digest,
                shard=self._lease.number,
                error=type(error).__name__,
            )
        else:
            if not is_wanted:
                self._stop = StopReason.CANCEL_REQUESTED

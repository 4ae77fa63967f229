"""The heartbeat: a thread that keeps the lease and carries progress to the row."""

import threading
from collections import deque
from collections.abc import Sequence
from enum import StrEnum
from time import monotonic
from types import TracebackType
from typing import Final, Self

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from jobs import repository
from jobs.errors import LeaseLost
from jobs.repository import Lease, Resumption
from jobs.stages import Progress, Stage, progress_of
from tcaq_core.errors import Interrupted
from worker.clock import utc_now

# Progress is written at most this often; the lease only every heartbeat_seconds.
PROGRESS_SECONDS: Final = 1.0

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class StopReason(StrEnum):
    """Why the work must stop before it is done."""

    CANCEL_REQUESTED = "cancel requested"
    LEASE_LOST = "lease lost"


class Heart:
    """Beats while the ``with`` block runs; `progress` is the science's callback."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        lease: Lease,
        *,
        heartbeat_seconds: float,
    ) -> None:
        self._sessions = sessions
        self._lease = lease
        self._stages: Sequence[Stage] = ()
        self._heartbeat_seconds = heartbeat_seconds
        self._lock = threading.Lock()
        # One entry per stage begun and not yet written, the last one kept current:
        # a stage shorter than the interval between two writes is not lost.
        self._pending: deque[Progress] = deque()
        self._stage = ""
        self._since = utc_now()
        self._fraction = 0.0
        self._resumed: Resumption | None = None
        self._ended = threading.Event()
        self._stop: StopReason | None = None
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the work must stop; None: go on."""
        return self._stop

    def expect(self, stages: Sequence[Stage]) -> None:
        """Say which stages the work will go through; call it before `progress`."""
        self._stages = stages

    def progress(self, stage: str, done: int, total: int) -> None:
        """Take note of where the work stands; it is written within a second or so.

        Raises:
            Interrupted: the work must stop; `stop_reason` says why.
        """
        if self._stop is not None:
            raise Interrupted(
                f"The job stops: {self._stop.value}.", hint="Nothing is left to do."
            )
        if stage != self._stage:
            self._stage, self._since = stage, utc_now()
        now = progress_of(
            self._stages, stage, done=done, total=total, since=self._since
        )
        self._fraction = now.fraction
        with self._lock:
            if self._pending and self._pending[-1].stage == stage:
                self._pending.pop()
            self._pending.append(now)

    def resumed(self, entry: str) -> None:
        """Take note that the work went on from what an earlier attempt had finished.

        Call it after the `progress` that says how far that is.
        """
        self._resumed = Resumption(entry, self._fraction)

    def flush(self, session: Session) -> bool:
        """Write what is not written yet; return whether to stop.

        Raises:
            LeaseLost: the job is no longer this worker's.
        """
        return self._write(session, self._snapshot())

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
        beaten = monotonic()
        pause = min(PROGRESS_SECONDS, self._heartbeat_seconds)
        # A cancelled job still holds its lease until the work has really stopped.
        while self._stop is not StopReason.LEASE_LOST and not self._ended.wait(pause):
            if self._pending or monotonic() - beaten >= self._heartbeat_seconds:
                beaten = monotonic()
                self._beat()

    def _beat(self) -> None:
        pending = self._snapshot()
        try:
            with self._sessions.begin() as session:
                stop = self._write(session, pending)
        except LeaseLost:
            self._stop = StopReason.LEASE_LOST
        except SQLAlchemyError as error:
            # The database may be back before the lease has run out.
            _logger.warning(
                "heartbeat failed",
                job_id=str(self._lease.job_id),
                error=type(error).__name__,
            )
        else:
            if stop:
                self._stop = StopReason.CANCEL_REQUESTED
            self._forget(pending)

    def _snapshot(self) -> list[Progress]:
        with self._lock:
            return list(self._pending)

    def _forget(self, written: list[Progress]) -> None:
        with self._lock:
            for progress in written:
                # One that was brought up to date since is another object.
                if self._pending and self._pending[0] is progress:
                    self._pending.popleft()

    def _write(self, session: Session, pending: list[Progress]) -> bool:
        stop = False
        beats: list[Progress | None] = [*pending] or [None]
        for progress in beats:
            stop = repository.heartbeat(
                session,
                self._lease,
                progress=progress,
                now=utc_now(),
                resumed=self._resumed,
            )
        return stop

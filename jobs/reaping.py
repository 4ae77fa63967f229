"""SQL of the reaper: find the jobs that the queue or a worker has lost."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from jobs.failures import failure
from jobs.models import Job
from jobs.settings import Settings
from jobs.status import JobStatus
from jobs.steps import close_steps

# A job that waits long is rung ever more rarely, up to this many times the first
# interval: otherwise a long line would fill the broker with doorbells all day.
SLOWEST: Final = 15


@dataclass(frozen=True)
class ReapReport:
    """What one reaping did; the caller rings every job in `to_ring` (`queue.ring`)."""

    requeued: tuple[Job, ...]
    failed: tuple[Job, ...]
    cancelled: tuple[Job, ...]
    waiting: tuple[Job, ...]
    """Queued for so long that their doorbell may be lost."""

    @property
    def to_ring(self) -> tuple[Job, ...]:
        """The jobs that wait for a worker."""
        return self.requeued + self.waiting


def reap(session: Session, *, now: datetime, settings: Settings) -> ReapReport:
    """Requeue, fail or cancel jobs whose worker is silent; find those that wait.

    Two reapers at once are harmless: each row is changed by a conditional UPDATE.
    """
    stale = now - timedelta(seconds=settings.lease_seconds)
    silent = session.scalars(
        select(Job).where(
            Job.status.in_((JobStatus.RUNNING, JobStatus.CANCELLING)),
            Job.heartbeat_at < stale,
        )
    ).all()
    taken = [
        job for seen in silent if (job := _take(session, seen, stale=stale, now=now))
    ]
    return ReapReport(
        requeued=_with_status(taken, JobStatus.QUEUED),
        failed=_with_status(taken, JobStatus.FAILED),
        cancelled=_with_status(taken, JobStatus.CANCELLED),
        waiting=_waiting(session, now=now, settings=settings),
    )


def _take(session: Session, seen: Job, *, stale: datetime, now: datetime) -> Job | None:
    job = session.scalars(
        update(Job)
        .where(
            Job.id == seen.id,
            Job.lease_token == seen.lease_token,
            Job.status == seen.status,
            Job.heartbeat_at < stale,
        )
        .values({**_fate(seen, now), "updated_at": now, "version": Job.version + 1})
        .returning(Job)
        .execution_options(populate_existing=True, synchronize_session=False)
    ).one_or_none()
    if job is not None:
        ended = JobStatus.FAILED if job.status == JobStatus.QUEUED else job.status
        job.steps = close_steps(job.steps, ended, now)
        session.flush()
    return job


def _fate(job: Job, now: datetime) -> dict[str, Any]:
    if job.status == JobStatus.CANCELLING:
        return {"status": JobStatus.CANCELLED, "finished_at": now}
    if job.attempt < job.max_attempts:
        return {"status": JobStatus.QUEUED, "queued_at": now, "rung_at": now}
    error = _worker_lost(job.attempt)
    return {"status": JobStatus.FAILED, "finished_at": now, "error": error}


def _with_status(jobs: Sequence[Job], status: JobStatus) -> tuple[Job, ...]:
    return tuple(job for job in jobs if job.status == status)


def _waiting(session: Session, *, now: datetime, settings: Settings) -> tuple[Job, ...]:
    first = timedelta(seconds=settings.requeue_after_seconds)
    waiting = []
    for job_id, queued_at, rung_at in session.execute(
        select(Job.id, Job.queued_at, Job.rung_at).where(
            Job.status == JobStatus.QUEUED, Job.rung_at <= now - first
        )
    ):
        # Each interval is as long as all before it together.
        if now - rung_at < min(rung_at - queued_at, SLOWEST * first):
            continue
        job = session.scalars(
            update(Job)
            .where(
                Job.id == job_id,
                Job.status == JobStatus.QUEUED,
                Job.rung_at == rung_at,
            )
            # Not a change that a reader could see: neither version nor updated_at.
            .values(rung_at=now)
            .returning(Job)
            .execution_options(populate_existing=True, synchronize_session=False)
        ).one_or_none()
        if job is not None:
            waiting.append(job)
    return tuple(waiting)


def _worker_lost(attempt: int) -> dict[str, Any]:
    return failure(
        "worker_lost",
        f"The worker died in each of {attempt} attempts.",
        hint="Most often the machine ran out of memory: lower batch_size or "
        "calibration.num_samples, and look into the worker's log.",
        retryable=True,
    )

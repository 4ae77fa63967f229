"""SQL of the worker: claim a job, keep its lease, end it.

Every change is one conditional UPDATE on the lease's token, so a worker that was taken
for dead and comes back cannot touch a row that is no longer its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import insert, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from jobs.artifacts import StoredArtifact
from jobs.errors import LeaseLost
from jobs.models import Artifact, Job, JobArtifact
from jobs.stages import Progress
from jobs.status import JobStatus, sources
from jobs.steps import advance, close_steps

HELD: Final = (JobStatus.RUNNING, JobStatus.CANCELLING)


@dataclass(frozen=True)
class Lease:
    """The right to work on a job: valid while the row still carries this token."""

    job_id: UUID
    owner: str
    token: int


@dataclass(frozen=True)
class Resumption:
    """Where an attempt goes on from what an earlier one has finished."""

    entry: str
    """The journal's last entry that it used."""
    fraction: float
    """Share of the whole job that was done by then."""


def lease_of(job: Job) -> Lease:
    """Return the lease that a job, as just claimed, was given."""
    return Lease(job_id=job.id, owner=job.lease_owner or "", token=job.lease_token)


def claim(session: Session, job_id: UUID, *, owner: str, now: datetime) -> Job | None:
    """Take a queued job; None if another delivery was first or it was cancelled."""
    statement = (
        update(Job)
        .where(Job.id == job_id, Job.status == JobStatus.QUEUED)
        .values(
            status=JobStatus.RUNNING,
            attempt=Job.attempt + 1,
            lease_owner=owner,
            lease_token=Job.lease_token + 1,
            heartbeat_at=now,
            updated_at=now,
            version=Job.version + 1,
            # A second attempt begins again, or says where it goes on.
            resumed_from=None,
            resumed_fraction=0.0,
            stage=None,
            stage_index=0,
            stage_count=0,
            done=0,
            total=0,
            unit=None,
            fraction=0.0,
            steps=[],
            warnings=[],
        )
        .returning(Job)
        .execution_options(populate_existing=True, synchronize_session=False)
    )
    job = session.scalars(statement).one_or_none()
    if job is not None and job.started_at is None:
        job.started_at = now
        session.flush()
    return job


def heartbeat(
    session: Session,
    lease: Lease,
    *,
    progress: Progress | None,
    now: datetime,
    resumed: Resumption | None = None,
) -> bool:
    """Say that the worker lives and how far it is; return whether to stop.

    Raises:
        LeaseLost: the job is no longer this worker's; the row is unchanged.
    """
    job = _held(session, lease, {"heartbeat_at": now}, now=now)
    if resumed is not None:
        job.resumed_from, job.resumed_fraction = resumed.entry, resumed.fraction
        session.flush()
    if progress is not None:
        job.stage, job.unit = progress.stage, progress.unit
        job.stage_index, job.stage_count = progress.stage_index, progress.stage_count
        job.done, job.total = progress.done, progress.total
        job.fraction = progress.fraction
        job.steps = advance(job.steps, progress.stage, progress.since or now)
        session.flush()
    return job.status == JobStatus.CANCELLING


def describe(
    session: Session,
    lease: Lease,
    *,
    model_info: Mapping[str, Any],
    environment: Mapping[str, Any],
    now: datetime,
) -> None:
    """Record the model that was loaded and the machine that works on it.

    Raises:
        LeaseLost: the job is no longer this worker's; the row is unchanged.
    """
    values = {"model_info": dict(model_info), "environment": dict(environment)}
    _held(session, lease, values, now=now)


def note(
    session: Session, lease: Lease, *, result: Mapping[str, Any], now: datetime
) -> None:
    """Record what is known of the result so far: another attempt goes on from it.

    Raises:
        LeaseLost: the job is no longer this worker's; the row is unchanged.
    """
    _held(session, lease, {"result": dict(result)}, now=now)


def finish(
    session: Session,
    lease: Lease,
    *,
    result: Mapping[str, Any],
    artifacts: Mapping[str, StoredArtifact],
    now: datetime,
) -> None:
    """End the job as succeeded, with what it made.

    Raises:
        LeaseLost: the job is no longer this worker's; nothing is recorded.
    """
    values = {"result": dict(result), "fraction": 1.0}
    _end(session, lease, JobStatus.SUCCEEDED, values, now=now)
    _remember(session, artifacts.values(), now=now)
    named = [
        {"job_id": lease.job_id, "name": name, "sha256": stored.sha256}
        for name, stored in artifacts.items()
    ]
    if named:
        session.execute(insert(JobArtifact), named)


def fail(
    session: Session, lease: Lease, *, error: Mapping[str, Any], now: datetime
) -> None:
    """End the job as failed, with the problem that the caller will read.

    Raises:
        LeaseLost: the job is no longer this worker's; the row is unchanged.
    """
    _end(session, lease, JobStatus.FAILED, {"error": dict(error)}, now=now)


def cancelled(session: Session, lease: Lease, *, now: datetime) -> None:
    """Confirm that the worker has stopped as asked.

    Raises:
        LeaseLost: not this worker's any more, or nobody asked; the row is unchanged.
    """
    _end(session, lease, JobStatus.CANCELLED, {}, now=now)


def release(session: Session, lease: Lease, *, now: datetime) -> Job:
    """Give a running job back to the queue: its worker is being shut down.

    The attempt does not count: the job is not to blame. The caller rings its doorbell.

    Raises:
        LeaseLost: not this worker's any more, or being cancelled; the row is unchanged.
    """
    values = {
        "status": JobStatus.QUEUED,
        "attempt": Job.attempt - 1,
        "queued_at": now,
        "rung_at": now,
    }
    job = _held(session, lease, values, now=now, states=(JobStatus.RUNNING,))
    job.steps = close_steps(job.steps, JobStatus.FAILED, now)
    session.flush()
    return job


def _end(
    session: Session,
    lease: Lease,
    status: JobStatus,
    values: Mapping[str, Any],
    *,
    now: datetime,
) -> None:
    states = tuple(state for state in HELD if state in sources(status))
    ended = {**values, "status": status, "finished_at": now}
    job = _held(session, lease, ended, now=now, states=states)
    job.steps = close_steps(job.steps, status, now)
    session.flush()


def _held(
    session: Session,
    lease: Lease,
    values: Mapping[str, Any],
    *,
    now: datetime,
    states: tuple[JobStatus, ...] = HELD,
) -> Job:
    job = session.scalars(
        update(Job)
        .where(
            Job.id == lease.job_id,
            Job.lease_owner == lease.owner,
            Job.lease_token == lease.token,
            Job.status.in_(states),
        )
        .values({**values, "updated_at": now, "version": Job.version + 1})
        .returning(Job)
        .execution_options(populate_existing=True, synchronize_session=False)
    ).one_or_none()
    if job is None:
        raise LeaseLost(
            f"Job {lease.job_id} is no longer held under token {lease.token}.",
            hint="Stop working on it: another worker has it, or it has ended.",
        )
    return job


def _remember(
    session: Session, files: Iterable[StoredArtifact], *, now: datetime
) -> None:
    # In one statement: an evaluation may keep 40,000 files, and on SQLite nobody else
    # reads or writes meanwhile. In order: two who lock the same rows never cross.
    rows = [
        {
            "sha256": stored.sha256,
            "size_bytes": stored.size_bytes,
            "media_type": stored.media_type,
            "created_at": now,
        }
        for stored in sorted(
            {stored.sha256: stored for stored in files}.values(),
            key=lambda stored: stored.sha256,
        )
    ]
    if not rows:
        return
    dialect = session.get_bind().dialect.name
    upsert = sqlite.insert if dialect == "sqlite" else postgresql.insert
    # Two jobs may make the same bytes at the same moment; both mean the same file.
    session.execute(
        upsert(Artifact).on_conflict_do_nothing(index_elements=["sha256"]), rows
    )

"""SQL of those who ask: submit, look up, list, cancel."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from jobs.errors import ArtifactNotFound, IllegalTransition, JobNotFound
from jobs.ids import new_id, public_id
from jobs.models import Artifact, Job, JobArtifact, JobKind
from jobs.status import JobStatus, is_terminal
from tcaq_core.recipe import Recipe


@dataclass(frozen=True)
class Page:
    """Some jobs of a listing, and whether more follow."""

    jobs: tuple[Job, ...]
    has_more: bool


def submit(
    session: Session,
    *,
    kind: JobKind,
    request: Mapping[str, Any],
    model: str,
    recipe: Recipe | None,
    max_attempts: int,
    now: datetime,
) -> Job:
    """Insert a queued job; the caller also rings its doorbell (`jobs.queue.ring`).

    Labels are taken from ``request["labels"]``.
    """
    job = Job(
        id=new_id(),
        kind=kind,
        status=JobStatus.QUEUED,
        request=dict(request),
        model=model,
        recipe=recipe.model_dump(mode="json") if recipe else None,
        recipe_digest=recipe.digest() if recipe else None,
        labels=dict(request.get("labels", {})),
        max_attempts=max_attempts,
        created_at=now,
        updated_at=now,
        queued_at=now,
        rung_at=now,
    )
    session.add(job)
    session.flush()
    return job


def get(session: Session, job_id: UUID) -> Job:
    """Return a job as the database has it now.

    Raises:
        JobNotFound: no such job.
    """
    job = session.get(Job, job_id, populate_existing=True)
    if job is None:
        raise _no_such_job()
    return job


def page(
    session: Session,
    *,
    limit: int,
    kinds: Collection[JobKind] | None = None,
    status: JobStatus | None = None,
    after: tuple[datetime, UUID] | None = None,
    newest_first: bool = True,
) -> Page:
    """Return up to `limit` jobs that follow `after`, by creation time and id.

    `kinds` and `status` narrow the listing; None: any.
    """
    query = select(Job).limit(limit + 1)
    if kinds is not None:
        query = query.where(Job.kind.in_(kinds))
    if status is not None:
        query = query.where(Job.status == status)
    if newest_first:
        query = query.order_by(Job.created_at.desc(), Job.id.desc())
    else:
        query = query.order_by(Job.created_at, Job.id)
    if after is not None:
        at, job_id = after
        earlier, same_time = Job.created_at < at, Job.id < job_id
        if not newest_first:
            earlier, same_time = Job.created_at > at, Job.id > job_id
        query = query.where(or_(earlier, and_(Job.created_at == at, same_time)))
    found = session.scalars(query).all()
    return Page(jobs=tuple(found[:limit]), has_more=len(found) > limit)


def ahead(session: Session, job: Job) -> int:
    """Return how many queued jobs of the same kind were created before this one."""
    earlier = or_(
        Job.created_at < job.created_at,
        and_(Job.created_at == job.created_at, Job.id < job.id),
    )
    return session.scalars(
        select(func.count()).where(
            Job.kind == job.kind, Job.status == JobStatus.QUEUED, earlier
        )
    ).one()


def request_cancel(session: Session, job_id: UUID, *, now: datetime) -> Job:
    """Cancel a queued job at once; ask the worker of a running one to stop.

    Asking again while it is cancelling changes nothing.

    Raises:
        JobNotFound: no such job.
        IllegalTransition: it has ended already.
    """
    job = session.get(Job, job_id, with_for_update=True, populate_existing=True)
    if job is None:
        raise _no_such_job()
    if is_terminal(job.status):
        raise IllegalTransition(
            f"{public_id(job.kind, job.id)} has already {job.status.value}."
            if job.status != JobStatus.CANCELLED
            else f"{public_id(job.kind, job.id)} is already cancelled.",
            hint="Only a queued or running job can be cancelled.",
        )
    if job.status == JobStatus.CANCELLING:
        return job
    if job.status == JobStatus.QUEUED:
        job.status, job.finished_at = JobStatus.CANCELLED, now
    else:
        job.status = JobStatus.CANCELLING
    job.cancel_requested_at = job.updated_at = now
    job.version += 1
    session.flush()
    return job


def artifact(session: Session, sha256: str) -> Artifact:
    """Return what the ledger knows of an artifact.

    Raises:
        ArtifactNotFound: no job made it.
    """
    found = session.get(Artifact, sha256)
    if found is None:
        raise ArtifactNotFound(
            "There is no artifact of that SHA-256.",
            hint="Take the SHA-256 from the job's result.",
        )
    return found


def job_artifacts(session: Session, job_id: UUID) -> dict[str, Artifact]:
    """Return what a job made, by name; empty until it has succeeded."""
    rows = session.execute(
        select(JobArtifact.name, Artifact)
        .join(Artifact, Artifact.sha256 == JobArtifact.sha256)
        .where(JobArtifact.job_id == job_id)
        .order_by(JobArtifact.name)
    )
    return {name: found for name, found in rows}  # noqa: C416 - typed, unlike dict(rows)


def _no_such_job() -> JobNotFound:
    return JobNotFound("There is no such job.", hint="GET /jobs lists the jobs.")

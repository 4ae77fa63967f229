"""Rows and objects for tests; each argument that matters to a test is visible in it."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session

from jobs import repository
from jobs.models import Job, JobKind
from jobs.status import JobStatus
from tcaq_core.recipe import CalibrationSpec, Recipe, resolve

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def make_recipe(
    preset: str = "rtn", *, weight_bits: int = 4, num_samples: int = 2
) -> Recipe:
    """Return a small recipe: two trajectories of three steps."""
    return resolve(
        preset,
        weight_bits=weight_bits,
        activation_bits=8,
        calibration=CalibrationSpec(num_samples=num_samples, num_steps=3),
    )


def make_job(
    session: Session,
    *,
    kind: JobKind = JobKind.QUANTIZE,
    model: str = "tiny",
    recipe: Recipe | None = None,
    request: dict[str, Any] | None = None,
    max_attempts: int = 3,
    now: datetime = NOON,
) -> Job:
    """Insert a queued job."""
    if recipe is None and kind == JobKind.QUANTIZE:
        recipe = make_recipe()
    return repository.submit(
        session,
        kind=kind,
        request=request or {},
        model=model,
        recipe=recipe,
        max_attempts=max_attempts,
        now=now,
    )


def make_running_job(
    session: Session,
    *,
    owner: str = "worker-1",
    now: datetime = NOON,
    max_attempts: int = 3,
) -> tuple[Job, repository.Lease]:
    """Insert a job and claim it."""
    queued = make_job(session, now=now, max_attempts=max_attempts)
    running = repository.claim(session, queued.id, owner=owner, now=now)
    assert running is not None
    assert running.status == JobStatus.RUNNING
    return running, repository.lease_of(running)

"""Queue a sample and wait for it without holding a thread or a transaction."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final
from uuid import UUID

import anyio
import anyio.to_thread
from sqlalchemy.orm import Session, sessionmaker

from jobs import repository
from jobs.failures import failure
from jobs.ids import public_id
from jobs.models import Job, JobKind, Json
from jobs.queue import ring
from jobs.settings import Settings
from jobs.status import is_terminal
from service.deps import Resources
from service.errors import refused
from service.schemas.sample import SampleCreate
from service.targets import check_target_model, model_of

FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 0.5


def submit_sample(resources: Resources, body: SampleCreate, *, now: datetime) -> Job:
    """Check what is asked for, and queue it.

    Raises:
        RequestInvalid: a value that these settings or the target do not allow.
        FieldRejected: the target does not exist or is not finished.
    """
    _check_limits(body, resources.settings)
    check_target_model(body.target, resources.settings, execution=body.execution)
    with resources.sessions.begin() as session:
        job = repository.submit(
            session,
            kind=JobKind.SAMPLE,
            # Without the two targets that were not given: exactly one key is left.
            request=body.model_dump(mode="json")
            | {"target": body.target.model_dump(exclude_none=True)},
            model=model_of(session, body.target),
            recipe=None,
            max_attempts=resources.settings.max_attempts,
            now=now,
        )
        ring(session, job, resources.celery)
    return job


async def wait_until_ended(
    sessions: sessionmaker[Session],
    job_id: UUID,
    *,
    seconds: float,
    has_left: Callable[[], Awaitable[bool]],
) -> Job:
    """Return the job once it has ended, or as it is after `seconds`.

    Each look is a transaction of its own in a thread for a few milliseconds; between
    looks the request costs neither, so that any number may wait. `has_left` says
    whether the caller is gone, which ends the wait, too.
    """

    def look() -> Job:
        with sessions.begin() as session:
            return repository.get(session, job_id)

    deadline = anyio.current_time() + seconds
    pause = FIRST_PAUSE_SECONDS
    while True:
        job = await anyio.to_thread.run_sync(look)
        left = deadline - anyio.current_time()
        if is_terminal(job.status) or left <= 0 or await has_left():
            return job
        await anyio.sleep(min(pause, left))
        pause = min(1.5 * pause, LONGEST_PAUSE_SECONDS)


def failure_of(job: Job) -> Json:
    """Return why a sample ended without images, as a problem's members."""
    if job.error is not None:
        return job.error
    return failure(
        "cancelled",
        f"{public_id(job.kind, job.id)} was cancelled.",
        hint="Send the request again.",
        retryable=False,
    )


def _check_limits(body: SampleCreate, settings: Settings) -> None:
    if body.n > settings.max_images:
        raise refused(
            "/n",
            f"At most {settings.max_images} images in one sample.",
            {"minimum": 1, "maximum": settings.max_images},
        )
    if body.compare_to is not None and body.target.model is not None:
        raise refused(
            "/compare_to", "A model in full precision is its own baseline.", [None]
        )

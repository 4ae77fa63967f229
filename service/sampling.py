"""Queue a sample and wait for it without holding a thread or a transaction."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import anyio
import anyio.to_thread
from sqlalchemy.orm import Session, sessionmaker

from jobs import repository
from jobs.errors import JobError, JobNotFound, JobNotReady
from jobs.failures import failure
from jobs.ids import parse_id, public_id
from jobs.models import Job, JobKind, Json
from jobs.queue import ring
from jobs.settings import Settings
from jobs.status import JobStatus, is_terminal
from service.deps import Resources
from service.errors import FieldRejected, RequestInvalid
from service.local_models import check_model
from service.schemas.problem import FieldError
from service.schemas.sample import SampleCreate

CHECKPOINT_MEDIA_TYPE: Final = "application/x-tar"
FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 0.5


def submit_sample(resources: Resources, body: SampleCreate, *, now: datetime) -> Job:
    """Check what is asked for, and queue it.

    Raises:
        RequestInvalid: a value that these settings or the target do not allow.
        FieldRejected: the target does not exist or is not finished.
    """
    _check_limits(body, resources.settings)
    if body.target.model is not None:
        check_model(body.target.model, resources.settings, pointer="/target/model")
    with resources.sessions.begin() as session:
        job = repository.submit(
            session,
            kind=JobKind.SAMPLE,
            # Without the two targets that were not given: exactly one key is left.
            request=body.model_dump(mode="json")
            | {"target": body.target.model_dump(exclude_none=True)},
            model=_model_of(session, body),
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
        raise _refused(
            "/n",
            f"At most {settings.max_images} images in one sample.",
            {"minimum": 1, "maximum": settings.max_images},
        )
    if body.compare_to is not None and body.target.model is not None:
        raise _refused(
            "/compare_to", "A model in full precision is its own baseline.", [None]
        )
    if body.execution != "auto" and body.target.model is not None:
        raise _refused(
            "/execution", "A model in full precision is not quantized.", ["auto"]
        )


def _model_of(session: Session, body: SampleCreate) -> str:
    """Return the model behind the target; raises `FieldRejected` if there is none."""
    target = body.target
    if target.job_id is not None:
        try:
            return _succeeded(session, target.job_id).model
        except JobError as error:
            raise FieldRejected(error, pointer="/target/job_id") from error
    if target.checkpoint is not None:
        _check_checkpoint(session, target.checkpoint)
        return f"sha256:{target.checkpoint}"
    return target.model or ""


def _succeeded(session: Session, text: str) -> Job:
    job = repository.get(session, parse_id(text))
    if job.kind != JobKind.QUANTIZE:
        raise JobNotFound(
            "That is a sample, not a quantization.",
            hint="GET /jobs lists the quantizations.",
        )
    require_success(job)
    return job


def require_success(job: Job) -> None:
    """Return if the job has a result.

    Raises:
        JobNotReady: it has not ended, or ended without one.
    """
    if job.status == JobStatus.SUCCEEDED:
        return
    name = public_id(job.kind, job.id)
    hint = (
        "A job that ended without a result never gets one; submit a new one."
        if is_terminal(job.status)
        else f"Poll GET /jobs/{name} until its status is succeeded."
    )
    raise JobNotReady(f"{name} is {job.status.value}.", hint=hint)


def _check_checkpoint(session: Session, sha256: str) -> None:
    pointer = "/target/checkpoint"
    try:
        found = repository.artifact(session, sha256)
    except JobError as error:
        raise FieldRejected(error, pointer=pointer) from error
    if found.media_type != CHECKPOINT_MEDIA_TYPE:
        raise _refused(pointer, f"That artifact is {found.media_type}.", None)


def _refused(
    pointer: str, detail: str, allowed: list[Any] | dict[str, int] | None
) -> RequestInvalid:
    error = FieldError(
        pointer=pointer, code="unsupported_value", detail=detail, allowed=allowed
    )
    return RequestInvalid(f"{pointer}: {detail}", errors=(error,))

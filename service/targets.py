"""What a sample is drawn from and an evaluation scores: it must be there, and done."""

from typing import Final

from sqlalchemy.orm import Session

from jobs import repository
from jobs.errors import JobError, JobNotFound, JobNotReady
from jobs.ids import parse_id, public_id
from jobs.models import Job, JobKind
from jobs.settings import Settings
from jobs.status import JobStatus, is_terminal
from service.errors import FieldRejected, refused
from service.local_models import check_model
from service.schemas.target import Target

CHECKPOINT_MEDIA_TYPE: Final = "application/x-tar"


def check_target_model(target: Target, settings: Settings, *, execution: str) -> None:
    """Return if the model that a target names, if any, can be loaded.

    Raises:
        FieldRejected: it cannot.
        RequestInvalid: an execution is asked of it that only a checkpoint has.
    """
    if target.model is None:
        return
    if execution != "auto":
        raise refused(
            "/execution", "A model in full precision is not quantized.", ["auto"]
        )
    check_model(target.model, settings, pointer="/target/model")


def model_of(session: Session, target: Target) -> str:
    """Return the reference of the model behind a target.

    Raises:
        FieldRejected: no such quantization or checkpoint, or it has not succeeded.
        RequestInvalid: the artifact is something else than a checkpoint.
    """
    if target.job_id is not None:
        try:
            return _succeeded(session, target.job_id).model
        except JobError as error:
            raise FieldRejected(error, pointer="/target/job_id") from error
    if target.checkpoint is not None:
        _check_checkpoint(session, target.checkpoint)
        return f"sha256:{target.checkpoint}"
    return target.model or ""


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


def _succeeded(session: Session, text: str) -> Job:
    job = repository.get(session, parse_id(text))
    if job.kind != JobKind.QUANTIZE:
        raise JobNotFound(
            f"That job's kind is {job.kind.value}: it has no checkpoint of its own.",
            hint="GET /jobs?kind=quantize lists the quantizations; name a sweep's "
            "checkpoints by their sha256.",
        )
    require_success(job)
    return job


def _check_checkpoint(session: Session, sha256: str) -> None:
    pointer = "/target/checkpoint"
    try:
        found = repository.artifact(session, sha256)
    except JobError as error:
        raise FieldRejected(error, pointer=pointer) from error
    if found.media_type != CHECKPOINT_MEDIA_TYPE:
        raise refused(pointer, f"That artifact is {found.media_type}.")

"""What samples and evaluations are made of: a job's checkpoint, another, or a model."""

from pydantic import BaseModel

from jobs import repository
from jobs.errors import JobNotReady
from jobs.ids import parse_id
from worker.context import Context
from worker.execution import Wanted
from worker.loading import load_checkpoint, load_model
from worker.models import Loaded


class Target(BaseModel, frozen=True):
    """The one that is given."""

    job_id: str | None = None
    checkpoint: str | None = None
    model: str | None = None


def load_target(target: Target, context: Context, *, execution: Wanted) -> Loaded:
    """Return the target's pipeline, ready to sample.

    Raises:
        JobNotReady: the job has no checkpoint.
        TCAQError, JobError: as `load_model` and `load_checkpoint`.
    """
    if target.model is not None:
        return load_model(target.model, context)
    return load_checkpoint(checkpoint_of(target, context), context, execution=execution)


def checkpoint_of(target: Target, context: Context) -> str:
    """Return the SHA-256 of the checkpoint that a target means.

    Raises:
        JobNotReady: the job has none.
    """
    if target.checkpoint is not None:
        return target.checkpoint
    with context.sessions.begin() as session:
        made = repository.job_artifacts(session, parse_id(target.job_id or ""))
    if "checkpoint" not in made:
        raise JobNotReady(
            "The target job has no checkpoint.",
            hint="Name a quantization that has succeeded.",
        )
    return made["checkpoint"].sha256

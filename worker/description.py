"""What a job's row says of its model and of the machine that works on it."""

from collections.abc import Mapping
from typing import Any

from jobs import repository
from jobs.models import Job
from jobs.repository import lease_of
from tcaq_core.environment import describe_environment
from worker.clock import utc_now
from worker.context import Context


def describe(job: Job, context: Context, model_info: Mapping[str, Any]) -> None:
    """Write it on the row.

    Raises:
        LeaseLost: the job is no longer this worker's.
    """
    with context.sessions.begin() as session:
        repository.describe(
            session,
            lease_of(job),
            model_info=model_info,
            environment=describe_environment(context.device),
            now=utc_now(),
        )

"""The Celery tasks: what a doorbell starts."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING
from uuid import UUID

import structlog
from celery import Celery
from sqlalchemy.orm import Session, sessionmaker

from jobs import repository
from jobs.database import make_sessions
from jobs.models import JobKind
from jobs.queue import REAP_TASK, ring, task_name
from jobs.settings import Settings
from worker.clock import utc_now

if TYPE_CHECKING:
    from worker.context import Context

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def register(app: Celery, settings: Settings) -> None:
    """Add the tasks to `app`; what they need is built in the process that works."""

    @cache
    def context() -> "Context":
        from worker.context import make_context  # noqa: PLC0415 - it imports torch

        return make_context(settings, app)

    def work(job_id: str) -> None:
        from worker.run import run_job  # noqa: PLC0415 - it imports torch

        run_job(UUID(job_id), context())

    for kind in JobKind:
        app.task(name=task_name(kind))(work)
    app.task(name=REAP_TASK)(make_reap(app, settings))


def make_reap(app: Celery, settings: Settings) -> Callable[[], None]:
    """Return the task that finds lost jobs and rings for those that wait."""

    @cache
    def sessions() -> sessionmaker[Session]:
        return make_sessions(settings)

    def reap() -> None:
        with sessions().begin() as session:
            now = utc_now()
            report = repository.reap(session, now=now, settings=settings)
            for job in report.to_ring:
                ring(session, job, app)
        if report.requeued or report.failed or report.cancelled:
            _logger.warning(
                "workers were lost",
                requeued=[str(job.id) for job in report.requeued],
                failed=[str(job.id) for job in report.failed],
                cancelled=[str(job.id) for job in report.cancelled],
            )

    return reap

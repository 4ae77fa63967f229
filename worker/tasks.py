"""The Celery tasks: what a doorbell starts."""

from functools import cache
from typing import TYPE_CHECKING
from uuid import UUID

import structlog
from celery import Celery
from sqlalchemy.orm import Session, sessionmaker

from jobs import repository
from jobs.artifacts import make_store
from jobs.database import make_sessions
from jobs.models import JobKind
from jobs.queue import REAP_TASK, SHARD_TASK, ring, task_name
from jobs.settings import Settings
from worker.clock import utc_now
from worker.shutdown import leaves_in_order
from worker.sweep import sweep, sweep_shards

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

        with leaves_in_order():
            run_job(UUID(job_id), context())

    def help_with(digest: str) -> None:
        from worker.shard_work import make_shard  # noqa: PLC0415 - it imports torch
        from worker.shards import help_once  # noqa: PLC0415 - it imports torch

        with leaves_in_order():
            help_once(digest, context(), make_shard(context()))

    @cache
    def sessions() -> sessionmaker[Session]:
        return make_sessions(settings)

    def maintain() -> None:
        reap(sessions(), app, settings)
        sweep(settings, now=utc_now())
        sweep_shards(sessions(), make_store(settings), settings, now=utc_now())

    # Celery would otherwise add them to every application of this process.
    for kind in JobKind:
        app.task(name=task_name(kind), shared=False)(work)
    app.task(name=SHARD_TASK, shared=False)(help_with)
    app.task(name=REAP_TASK, shared=False)(maintain)


def reap(sessions: sessionmaker[Session], app: Celery, settings: Settings) -> None:
    """Find the jobs that a worker or a message was lost of, and ring for them."""
    with sessions.begin() as session:
        report = repository.reap(session, now=utc_now(), settings=settings)
        for job in report.to_ring:
            ring(session, job, app)
    if report.requeued or report.failed or report.cancelled:
        _logger.warning(
            "workers were lost",
            requeued=[str(job.id) for job in report.requeued],
            failed=[str(job.id) for job in report.failed],
            cancelled=[str(job.id) for job in report.cancelled],
        )

from collections.abc import Iterator
from datetime import timedelta

import pytest
from celery import Celery
from sqlalchemy.orm import Session, sessionmaker

from jobs import repository
from jobs.models import JobKind
from jobs.queue import REAP_TASK, SHARD_TASK, make_celery, task_name
from jobs.settings import Settings
from jobs.status import JobStatus
from tests.factories import make_job, make_running_job
from worker.clock import utc_now
from worker.tasks import reap, register


@pytest.fixture
def celery(settings: Settings) -> Iterator[Celery]:
    app = make_celery(settings)
    yield app
    app.close()


def test_reaping_rings_for_every_job_that_waits_for_a_worker(
    settings: Settings, sessions: sessionmaker[Session], celery: Celery
) -> None:
    long_ago = utc_now() - timedelta(days=1)
    with sessions.begin() as session:
        lost, _ = make_running_job(session, now=long_ago)
        forgotten = make_job(session, kind=JobKind.SAMPLE, now=long_ago)
        fresh = make_job(session, kind=JobKind.SAMPLE, now=utc_now())
    reap(sessions, celery, settings)
    messages = settings.broker_directory / "messages"
    assert len(list(messages.glob("*.quantize.msg"))) == 1
    assert len(list(messages.glob("*.sample.msg"))) == 1
    with sessions() as session:
        jobs = [repository.get(session, job.id) for job in (lost, forgotten, fresh)]
    assert {job.status for job in jobs} == {JobStatus.QUEUED}
    assert jobs[1].rung_at > long_ago
    assert jobs[2].rung_at == fresh.rung_at


def test_every_kind_of_job_has_its_task(settings: Settings, celery: Celery) -> None:
    register(celery, settings)
    names = {task_name(kind) for kind in JobKind} | {REAP_TASK, SHARD_TASK}
    assert names <= set(celery.tasks)


def test_another_application_in_the_same_process_gets_no_tasks(
    settings: Settings, celery: Celery
) -> None:
    register(celery, settings)
    other = make_celery(settings)
    assert REAP_TASK not in other.tasks
    other.close()

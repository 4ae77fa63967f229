from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from threading import Barrier

from sqlalchemy.orm import Session, sessionmaker

from jobs import repository
from jobs.failures import TITLES
from jobs.repository import ReapReport
from jobs.settings import Settings
from jobs.stages import Progress
from jobs.status import JobStatus
from tests.factories import NOON, make_job, make_running_job

SECOND = timedelta(seconds=1)
CALIBRATING = Progress("calibrate", 1, 4, done=1, total=2, unit="step", fraction=0.3)


def test_a_job_whose_worker_is_silent_is_queued_again(
    session: Session, settings: Settings
) -> None:
    job, lease = make_running_job(session)
    repository.heartbeat(session, lease, progress=CALIBRATING, now=NOON)
    now = NOON + (settings.lease_seconds + 1) * SECOND
    report = repository.reap(session, now=now, settings=settings)
    assert report == ReapReport(requeued=(job,), failed=(), cancelled=(), waiting=())
    assert report.to_ring == (job,)
    session.expire_all()
    assert (job.status, job.attempt) == (JobStatus.QUEUED, 1)
    assert job.queued_at == job.rung_at == now
    assert job.steps[-1]["status"] == "failed"
    assert job.steps[-1]["finished_at"] == now.isoformat()


def test_a_heartbeat_keeps_the_job(session: Session, settings: Settings) -> None:
    _, lease = make_running_job(session)
    beat = NOON + settings.lease_seconds * SECOND
    repository.heartbeat(session, lease, progress=None, now=beat)
    report = repository.reap(
        session, now=beat + settings.lease_seconds * SECOND, settings=settings
    )
    assert report == ReapReport(requeued=(), failed=(), cancelled=(), waiting=())


def test_a_job_that_loses_every_worker_fails_at_the_last_attempt(
    session: Session, settings: Settings
) -> None:
    job = make_job(session, max_attempts=3)
    now = NOON
    outcomes = []
    for _ in range(3):
        assert repository.claim(session, job.id, owner="w", now=now) is not None
        now += (settings.lease_seconds + 1) * SECOND
        repository.reap(session, now=now, settings=settings)
        outcomes.append(job.status)
    assert outcomes == [JobStatus.QUEUED, JobStatus.QUEUED, JobStatus.FAILED]
    session.expire_all()
    assert job.error is not None
    assert (job.error["code"], job.error["retryable"]) == ("worker_lost", True)
    assert job.error["title"] == TITLES["worker_lost"]
    assert "3 attempts" in job.error["detail"]
    assert job.finished_at == now


def test_a_job_whose_worker_died_while_cancelling_is_cancelled(
    session: Session, settings: Settings
) -> None:
    job, _ = make_running_job(session)
    repository.request_cancel(session, job.id, now=NOON)
    now = NOON + (settings.lease_seconds + 1) * SECOND
    report = repository.reap(session, now=now, settings=settings)
    assert report.cancelled == (job,)
    assert report.to_ring == ()
    assert (job.status, job.finished_at) == (JobStatus.CANCELLED, now)


def _rings(session: Session, settings: Settings, until: datetime) -> list[float]:
    rung, now = [], NOON
    while now < until:
        now += settings.requeue_after_seconds / 2 * SECOND
        if repository.reap(session, now=now, settings=settings).waiting:
            rung.append((now - NOON) / SECOND / settings.requeue_after_seconds)
    return rung


def test_a_job_that_nobody_claims_is_rung_again_ever_more_rarely(
    session: Session, settings: Settings
) -> None:
    make_job(session, now=NOON)
    until = NOON + 64 * settings.requeue_after_seconds * SECOND
    assert _rings(session, settings, until) == [1, 2, 4, 8, 16, 31, 46, 61]


def test_ringing_again_is_no_change_that_a_reader_could_see(
    session: Session, settings: Settings
) -> None:
    job = make_job(session, now=NOON)
    now = NOON + settings.requeue_after_seconds * SECOND
    assert repository.reap(session, now=now, settings=settings).to_ring == (job,)
    assert (job.version, job.updated_at, job.rung_at) == (1, NOON, now)


def test_two_reapers_at_once_requeue_a_job_once(
    sessions: sessionmaker[Session], settings: Settings
) -> None:
    with sessions.begin() as session:
        for _ in range(10):
            make_running_job(session)
    now = NOON + (settings.lease_seconds + 1) * SECOND
    barrier = Barrier(4)

    def reap(_: int) -> int:
        barrier.wait()
        with sessions.begin() as session:
            report = repository.reap(session, now=now, settings=settings)
            return len(report.requeued)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(reap, range(4))) == 10

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from jobs import repository
from jobs.errors import LeaseLost
from jobs.models import Job
from jobs.repository import Lease
from jobs.settings import Settings
from jobs.stages import Stage
from tcaq_core.errors import Interrupted
from tests.factories import make_running_job
from worker.clock import utc_now
from worker.heart import Heart, StopReason

STAGES = (
    Stage("fetch", 1, "model"),
    Stage("tcr", 1, "layer"),
    Stage("par", 2, "block"),
)
# Far more than any of these waits takes; only a broken heart lets it pass.
PATIENCE_SECONDS = 60.0


@pytest.fixture
def lease(sessions: sessionmaker[Session]) -> Lease:
    with sessions.begin() as session:
        return make_running_job(session, now=utc_now())[1]


@pytest.fixture
def heart(sessions: sessionmaker[Session], lease: Lease) -> Heart:
    made = Heart(sessions, lease, heartbeat_seconds=0.02)
    made.expect(STAGES)
    return made


def _await(condition: Callable[[], bool]) -> None:
    tick = threading.Event()
    for _ in range(int(PATIENCE_SECONDS / 0.01)):
        if condition():
            return
        tick.wait(0.01)
    pytest.fail("it never happened")


def _read(sessions: sessionmaker[Session], lease: Lease) -> Job:
    with sessions() as session:
        return repository.get(session, lease.job_id)


def test_it_beats_also_when_the_work_says_nothing(
    sessions: sessionmaker[Session], lease: Lease, heart: Heart
) -> None:
    first = _read(sessions, lease).heartbeat_at
    with heart:
        _await(lambda: _read(sessions, lease).heartbeat_at != first)
    assert heart.stop_reason is None


def test_progress_reaches_the_row(
    sessions: sessionmaker[Session], lease: Lease, heart: Heart
) -> None:
    with heart:
        heart.progress("par", 1, 4)
        _await(lambda: _read(sessions, lease).stage == "par")
    job = _read(sessions, lease)
    assert (job.stage_index, job.stage_count, job.done, job.total) == (2, 3, 1, 4)
    assert job.fraction == pytest.approx((2 + 0.5) / 4)


def test_a_stage_shorter_than_a_beat_is_not_lost(
    sessions: sessionmaker[Session], lease: Lease
) -> None:
    heart = Heart(sessions, lease, heartbeat_seconds=PATIENCE_SECONDS)
    heart.expect(STAGES)
    began = utc_now()
    for stage in ("fetch", "tcr", "par"):
        heart.progress(stage, 0, 1)
        heart.progress(stage, 1, 1)
    with sessions.begin() as session:
        assert not heart.flush(session)
    steps = _read(sessions, lease).steps
    assert [step["name"] for step in steps] == ["fetch", "tcr", "par"]
    starts = [step["started_at"] for step in steps]
    assert starts == sorted(starts)
    assert began.isoformat() <= starts[0]
    # Each stage begins when the work says so, and ends when the next one begins.
    assert [step["finished_at"] for step in steps] == [*starts[1:], None]
    assert len(set(starts)) == 3


def test_a_request_to_cancel_stops_the_work_at_its_next_progress(
    sessions: sessionmaker[Session], lease: Lease, heart: Heart
) -> None:
    with heart:
        with sessions.begin() as session:
            repository.request_cancel(session, lease.job_id, now=utc_now())
        _await(lambda: heart.stop_reason is not None)
        with pytest.raises(Interrupted):
            heart.progress("fetch", 0, 1)
    assert heart.stop_reason == StopReason.CANCEL_REQUESTED


def test_a_lost_lease_stops_the_work_at_its_next_progress(
    sessions: sessionmaker[Session], settings: Settings, lease: Lease, heart: Heart
) -> None:
    with sessions.begin() as session:
        later = utc_now() + timedelta(seconds=settings.lease_seconds + 1)
        repository.reap(session, now=later, settings=settings)
    with heart:
        _await(lambda: heart.stop_reason is not None)
        with pytest.raises(Interrupted):
            heart.progress("fetch", 0, 1)
    assert heart.stop_reason == StopReason.LEASE_LOST
    with pytest.raises(LeaseLost), sessions.begin() as session:
        heart.flush(session)


def test_a_database_that_fails_for_a_moment_costs_nothing(
    sessions: sessionmaker[Session], lease: Lease, heart: Heart
) -> None:
    def rename(before: str, after: str) -> None:
        with sessions.begin() as session:
            session.execute(text(f"ALTER TABLE {before} RENAME TO {after}"))

    rename("jobs", "jobs_away")
    heart.progress("fetch", 0, 1)
    with heart:
        threading.Event().wait(0.2)
        rename("jobs_away", "jobs")
        _await(lambda: _read(sessions, lease).stage == "fetch")
    assert heart.stop_reason is None


def test_where_the_work_went_on_reaches_the_row_with_the_share_that_was_done(
    sessions: sessionmaker[Session], lease: Lease, heart: Heart
) -> None:
    with heart:
        heart.progress("tcr", 1, 1)
        heart.resumed("tcr")
        heart.progress("par", 0, 2)
        _await(lambda: _read(sessions, lease).stage == "par")
    job = _read(sessions, lease)
    assert (job.resumed_from, job.resumed_fraction) == ("tcr", 0.5)

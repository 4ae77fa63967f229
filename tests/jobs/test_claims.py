from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from threading import Barrier

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session, sessionmaker

from jobs import repository
from jobs.artifacts import StoredArtifact
from jobs.errors import LeaseLost
from jobs.ids import new_id
from jobs.repository import Lease, Resumption
from jobs.stages import Progress
from jobs.status import JobStatus
from tests.factories import NOON, make_job, make_running_job

SECOND = timedelta(seconds=1)
LATER = NOON + 10 * SECOND
HALF = Progress(
    stage="calibrate",
    stage_index=1,
    stage_count=4,
    done=5,
    total=10,
    unit="step",
    fraction=0.5,
)
STORED = StoredArtifact(
    sha256="c" * 64, size_bytes=7, media_type="application/octet-stream"
)


def test_an_attempt_says_where_it_went_on_and_the_next_begins_anew(
    session: Session,
) -> None:
    job, lease = make_running_job(session)
    resumed = Resumption("par/round-0/mid_block.resnets.0", 0.4)
    repository.heartbeat(session, lease, progress=None, now=NOON, resumed=resumed)
    repository.heartbeat(session, lease, progress=HALF, now=NOON)
    found = repository.get(session, job.id)
    assert (found.resumed_from, found.resumed_fraction) == (resumed.entry, 0.4)
    repository.release(session, lease, now=LATER)
    again = repository.claim(session, job.id, owner="another", now=LATER)
    assert again is not None
    assert (again.resumed_from, again.resumed_fraction) == (None, 0.0)


def test_a_claim_is_exclusive_among_many_racing_connections(
    sessions: sessionmaker[Session],
) -> None:
    num_jobs, num_workers = 25, 8
    with sessions.begin() as session:
        job_ids = [make_job(session).id for _ in range(num_jobs)]
    barrier = Barrier(num_workers)

    def work(worker: int) -> list[object]:
        won: list[object] = []
        for job_id in job_ids:
            barrier.wait()
            with sessions.begin() as session:
                if repository.claim(session, job_id, owner=f"{worker}", now=NOON):
                    won.append(job_id)
        return won

    with ThreadPoolExecutor(num_workers) as pool:
        wins = [job_id for won in pool.map(work, range(num_workers)) for job_id in won]
    assert sorted(map(str, wins)) == sorted(map(str, job_ids))
    with sessions() as session:
        jobs = [repository.get(session, job_id) for job_id in job_ids]
    assert {(job.attempt, job.lease_token) for job in jobs} == {(1, 1)}


def test_a_claimed_job_runs_under_a_lease(session: Session) -> None:
    job, lease = make_running_job(session, owner="host:1", now=LATER)
    assert lease == Lease(job_id=job.id, owner="host:1", token=1)
    assert job.status == JobStatus.RUNNING
    assert job.started_at == job.heartbeat_at == job.updated_at == LATER
    assert (job.attempt, job.version) == (1, 2)


def test_only_a_queued_job_can_be_claimed(session: Session) -> None:
    running, _ = make_running_job(session)
    cancelled = make_job(session)
    repository.request_cancel(session, cancelled.id, now=NOON)
    for job_id in (running.id, cancelled.id, new_id()):
        assert repository.claim(session, job_id, owner="other", now=NOON) is None


def test_a_second_claim_starts_again_but_keeps_when_the_job_first_started(
    session: Session,
) -> None:
    job, lease = make_running_job(session)
    repository.heartbeat(session, lease, progress=HALF, now=NOON)
    repository.release(session, lease, now=LATER)
    again = repository.claim(session, job.id, owner="worker-2", now=LATER)
    assert again is job
    assert (job.stage, job.fraction, job.steps) == (None, 0.0, [])
    assert job.started_at == NOON
    assert job.lease_token == 2


def test_a_heartbeat_writes_the_progress(session: Session) -> None:
    job, lease = make_running_job(session)
    assert not repository.heartbeat(session, lease, progress=HALF, now=LATER)
    session.expire_all()
    assert job.heartbeat_at == LATER
    assert (job.stage, job.stage_index, job.stage_count) == ("calibrate", 1, 4)
    assert (job.done, job.total, job.unit, job.fraction) == (5, 10, "step", 0.5)
    assert job.version == 3


def test_steps_record_when_each_stage_began_and_ended(session: Session) -> None:
    job, lease = make_running_job(session)
    save = Progress("save", 2, 4, done=0, total=1, unit="file", fraction=0.9)
    for seconds, progress in enumerate([HALF, HALF, save]):
        now = NOON + seconds * SECOND
        repository.heartbeat(session, lease, progress=progress, now=now)
    repository.fail(session, lease, error={"code": "internal"}, now=LATER)
    session.expire_all()
    assert job.steps == [
        {
            "name": "calibrate",
            "status": "succeeded",
            "started_at": NOON.isoformat(),
            "finished_at": (NOON + 2 * SECOND).isoformat(),
        },
        {
            "name": "save",
            "status": "failed",
            "started_at": (NOON + 2 * SECOND).isoformat(),
            "finished_at": LATER.isoformat(),
        },
    ]


def test_a_heartbeat_tells_the_worker_that_cancelling_was_requested(
    session: Session,
) -> None:
    job, lease = make_running_job(session)
    repository.request_cancel(session, job.id, now=NOON)
    assert repository.heartbeat(session, lease, progress=None, now=LATER)
    repository.cancelled(session, lease, now=LATER)
    assert job.status == JobStatus.CANCELLED
    assert job.finished_at == LATER


def test_a_worker_may_not_cancel_a_job_that_nobody_asked_to_stop(
    session: Session,
) -> None:
    job, lease = make_running_job(session)
    with pytest.raises(LeaseLost):
        repository.cancelled(session, lease, now=LATER)
    assert repository.get(session, job.id).status == JobStatus.RUNNING


def test_a_job_may_finish_before_its_worker_sees_the_request_to_cancel(
    session: Session,
) -> None:
    job, lease = make_running_job(session)
    repository.request_cancel(session, job.id, now=NOON)
    repository.finish(session, lease, result={"x": 1}, artifacts={}, now=LATER)
    assert job.status == JobStatus.SUCCEEDED


def test_finishing_records_result_and_artifacts(session: Session) -> None:
    job, lease = make_running_job(session)
    repository.describe(
        session, lease, model_info={"a": 1}, environment={"b": 2}, now=NOON
    )
    made = {"checkpoint": STORED}
    repository.finish(session, lease, result={"x": 1}, artifacts=made, now=LATER)
    session.expire_all()
    assert (job.model_info, job.environment, job.result) == (
        {"a": 1},
        {"b": 2},
        {"x": 1},
    )
    assert (job.status, job.fraction) == (JobStatus.SUCCEEDED, 1.0)
    assert job.finished_at == LATER
    assert repository.artifact(session, STORED.sha256).size_bytes == 7


def test_many_artifacts_take_no_more_statements_than_few(session: Session) -> None:
    # One at a time, 40,000 kept images would hold SQLite's lock for longer than
    # anybody waits for it.
    counts = []
    for number in (2, 200):
        _, lease = make_running_job(session)
        made = {
            f"images/{index}": StoredArtifact(f"{index:064x}", 7, "image/png")
            for index in range(number)
        }
        # Two names of the same bytes.
        made["again"] = made["images/0"]
        with _statements(session) as seen:
            repository.finish(session, lease, result={}, artifacts=made, now=LATER)
        counts.append(len(seen))
        assert repository.job_artifacts(session, lease.job_id).keys() == made.keys()
    assert counts[0] == counts[1]


@contextmanager
def _statements(session: Session) -> Iterator[list[str]]:
    seen: list[str] = []

    def note(_connection: object, _cursor: object, sql: str, *_more: object) -> None:
        seen.append(sql)

    event.listen(session.get_bind(), "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(session.get_bind(), "before_cursor_execute", note)


def test_two_jobs_may_make_the_same_artifact(session: Session) -> None:
    for _ in range(2):
        job, lease = make_running_job(session)
        made = {"checkpoint": STORED}
        repository.finish(session, lease, result={}, artifacts=made, now=NOON)
        assert repository.job_artifacts(session, job.id).keys() == made.keys()


def test_two_workers_may_store_the_same_artifact_at_the_same_moment(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as session:
        leases = [make_running_job(session)[1] for _ in range(8)]
    barrier = Barrier(len(leases))

    def finish(lease: Lease) -> None:
        barrier.wait()
        with sessions.begin() as session:
            made = {"checkpoint": STORED}
            repository.finish(session, lease, result={}, artifacts=made, now=NOON)

    with ThreadPoolExecutor(len(leases)) as pool:
        list(pool.map(finish, leases))
    with sessions() as session:
        found = [repository.get(session, lease.job_id).status for lease in leases]
    assert set(found) == {JobStatus.SUCCEEDED}


def test_releasing_gives_the_job_back_without_counting_the_attempt(
    session: Session,
) -> None:
    job, lease = make_running_job(session)
    repository.release(session, lease, now=LATER)
    assert (job.status, job.attempt, job.queued_at) == (JobStatus.QUEUED, 0, LATER)


def test_nothing_is_committed_here(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        job = make_job(session)
    with sessions() as session:
        claimed = repository.claim(session, job.id, owner="w", now=NOON)
        assert claimed is not None
    with sessions() as session:
        assert repository.get(session, job.id).status == JobStatus.QUEUED

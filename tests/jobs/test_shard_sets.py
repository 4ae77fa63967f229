"""Sets of shards: shared, counted, and deleted when nobody uses them."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from threading import Barrier, Event
from uuid import UUID

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from jobs import repository, shards
from jobs.artifacts import StoredArtifact
from jobs.models import Job, JobShardSet, Shard, ShardSet
from jobs.shards import ShardResult, Tally
from jobs.status import JobStatus
from tests.factories import NOON, make_job, make_running_job

SET, OTHER = "5" * 64, "6" * 64
SECOND = timedelta(seconds=1)
LATER = NOON + 10 * SECOND
REQUEST = {"plan": {"num_images": 6}, "empty": None}


def _open(
    session: Session,
    job_id: UUID,
    digest: str = SET,
    num_shards: int = 3,
    now: datetime = NOON,
) -> None:
    shards.open_set(
        session, job_id, digest=digest, request=REQUEST, num_shards=num_shards, now=now
    )


def _stored(letter: str) -> StoredArtifact:
    return StoredArtifact(sha256=letter * 64, size_bytes=7, media_type="x/y")


def _make(
    session: Session,
    features: str,
    *,
    digest: str = SET,
    images: str | None = None,
) -> int:
    lease = shards.claim_shard(
        session, digest, owner="w", now=NOON, stale_before=NOON - SECOND
    )
    assert lease is not None
    shards.finish_shard(
        session,
        lease,
        stored=_stored(features),
        images=_stored(images) if images else None,
        seconds=1.5,
        now=NOON,
    )
    return lease.number


def _end(session: Session, job: Job) -> None:
    lease = repository.lease_of(job)
    repository.finish(session, lease, result={}, artifacts={}, now=NOON)


def _count(session: Session, table: type[Shard | ShardSet | JobShardSet]) -> int:
    return session.scalars(select(func.count()).select_from(table)).one()


def test_an_opened_set_has_its_shards_and_its_request(session: Session) -> None:
    assert shards.set_request(session, SET) is None
    assert not shards.is_wanted(session, SET)
    _open(session, make_job(session).id)
    assert shards.set_request(session, SET) == REQUEST
    assert shards.is_wanted(session, SET)
    assert shards.tally(session, SET) == Tally(3, done=0, held=0, waiting=3)
    assert shards.results(session, SET) == ()


def test_two_jobs_share_a_set_and_what_is_done_stays_done(session: Session) -> None:
    first, second = make_job(session), make_job(session)
    _open(session, first.id)
    _make(session, "a")
    _open(session, first.id)
    _open(session, second.id, now=LATER)
    assert shards.tally(session, SET) == Tally(3, done=1, held=0, waiting=2)
    assert _count(session, JobShardSet) == 2
    assert session.get_one(ShardSet, SET, populate_existing=True).used_at == LATER
    repository.request_cancel(session, first.id, now=NOON)
    assert shards.is_wanted(session, SET)
    repository.request_cancel(session, second.id, now=NOON)
    assert not shards.is_wanted(session, SET)


def test_jobs_that_open_a_set_at_the_same_moment_make_it_once(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as session:
        job_ids = [make_job(session).id for _ in range(8)]
    barrier = Barrier(len(job_ids))

    def open_it(job_id: UUID) -> None:
        barrier.wait()
        with sessions.begin() as session:
            _open(session, job_id, num_shards=40)

    with ThreadPoolExecutor(len(job_ids)) as pool:
        list(pool.map(open_it, job_ids))
    with sessions() as session:
        assert (_count(session, ShardSet), _count(session, Shard)) == (1, 40)
        assert _count(session, JobShardSet) == 8


def test_a_digest_that_names_another_number_of_shards_is_refused(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as session:
        job_id = make_job(session).id
        _open(session, job_id)
    with (
        pytest.raises(ValueError, match="3 shards, not 4"),
        sessions.begin() as session,
    ):
        _open(session, job_id, num_shards=4)
    with sessions() as session:
        assert shards.tally(session, SET).num_shards == 3


@pytest.mark.parametrize(("digest", "num_shards"), [("5" * 63, 1), (SET, 0)])
def test_the_database_itself_refuses_what_no_set_can_be(
    session: Session, digest: str, num_shards: int
) -> None:
    job = make_job(session)
    with pytest.raises(IntegrityError):
        _open(session, job.id, digest=digest, num_shards=num_shards)


def test_results_come_by_number_whoever_was_first(session: Session) -> None:
    _open(session, make_job(session).id)
    leases = [
        shards.claim_shard(session, SET, owner="w", now=NOON, stale_before=NOON)
        for _ in range(3)
    ]
    for lease in (leases[2], leases[0]):
        assert lease is not None
        images = _stored("f") if lease.number == 2 else None
        shards.finish_shard(
            session,
            lease,
            stored=_stored(f"{lease.number}"),
            images=images,
            seconds=lease.number + 0.5,
            now=LATER,
        )
    assert shards.results(session, SET) == (
        ShardResult(0, "0" * 64, 7, None, None, 0.5),
        ShardResult(2, "2" * 64, 7, "f" * 64, 7, 2.5),
    )
    assert shards.tally(session, SET) == Tally(3, done=2, held=1, waiting=0)
    silent = shards.tally(session, SET, stale_before=NOON + SECOND)
    assert silent == Tally(3, done=2, held=0, waiting=1)


def test_a_set_that_is_not_there_has_no_count(session: Session) -> None:
    with pytest.raises(ValueError, match="open it first"):
        shards.tally(session, SET)


def test_a_result_whose_file_is_lost_is_forgotten_unless_it_was_made_anew(
    session: Session,
) -> None:
    _open(session, make_job(session).id, num_shards=1)
    _make(session, "a", images="b")
    shards.forget_result(session, SET, number=0, sha256="c" * 64)
    assert shards.tally(session, SET).done == 1
    shards.forget_result(session, SET, number=0, sha256="a" * 64)
    assert shards.tally(session, SET) == Tally(1, done=0, held=0, waiting=1)
    _make(session, "d")
    assert shards.results(session, SET)[0].images_sha256 is None


@pytest.mark.parametrize(
    ("status", "unused"),
    [
        (JobStatus.QUEUED, False),
        (JobStatus.RUNNING, False),
        (JobStatus.CANCELLING, True),
        (JobStatus.SUCCEEDED, True),
    ],
)
def test_a_set_is_unused_when_it_is_old_and_no_active_job_needs_it(
    session: Session, status: JobStatus, *, unused: bool
) -> None:
    job, _ = make_running_job(session)
    job.status = status
    _open(session, job.id)
    _open(session, job.id, digest=OTHER, now=LATER)
    found = shards.unused_sets(session, older_than=LATER)
    assert found == ((SET,) if unused else ())


def test_deleting_a_set_deletes_its_rows_and_no_other(session: Session) -> None:
    job = make_job(session)
    for digest in (SET, OTHER):
        _open(session, job.id, digest=digest)
    assert shards.delete_set(session, SET) == ()
    assert shards.set_request(session, SET) is None
    assert shards.tally(session, OTHER).num_shards == 3
    assert _count(session, JobShardSet) == 1
    assert repository.get(session, job.id) is job


def test_files_that_anything_else_names_are_not_orphans(session: Session) -> None:
    job, lease = make_running_job(session)
    _open(session, job.id, num_shards=5)
    _open(session, job.id, digest=OTHER, num_shards=2)
    _make(session, "a", images="b")
    _make(session, "a", images="c")  # the same bytes twice in one set
    _make(session, "d", images="1")  # the other set's, too
    _make(session, "2", images="3")  # the other set's, in the other role
    _make(session, "e", images="f")  # a job's artifact, each
    _make(session, "d", digest=OTHER, images="1")
    _make(session, "3", digest=OTHER, images="2")
    made = {"checkpoint": _stored("e"), "grid": _stored("f")}
    repository.finish(session, lease, result={}, artifacts=made, now=NOON)
    assert shards.delete_set(session, SET) == ("a" * 64, "b" * 64, "c" * 64)
    # With the last that names them, they go.
    last = tuple(letter * 64 for letter in "123d")
    assert shards.delete_set(session, OTHER) == last


def test_a_job_that_is_deleted_leaves_its_sets(session: Session) -> None:
    job = make_job(session)
    _open(session, job.id)
    session.delete(job)
    session.flush()
    assert _count(session, JobShardSet) == 0
    assert shards.unused_sets(session, older_than=LATER) == (SET,)


def test_a_job_that_opens_a_set_while_it_is_deleted_has_it_whole(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as session:
        old, _ = make_running_job(session)
        _open(session, old.id)
        _make(session, "a")
        _end(session, old)
        new = make_job(session)
    is_locked, goes_on = Event(), Event()

    def sweep() -> None:
        with sessions.begin() as session:
            for digest in shards.unused_sets(session, older_than=LATER):
                is_locked.set()
                assert goes_on.wait(30)
                shards.delete_set(session, digest)

    def open_it() -> None:
        assert is_locked.wait(30)
        with sessions.begin() as session:
            _open(session, new.id, now=LATER)

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(sweep), pool.submit(open_it)]
        Event().wait(0.3)  # time enough for the second to come to the first's lock
        goes_on.set()
        for item in running:
            item.result(30)
    with sessions() as session:
        assert shards.tally(session, SET) == Tally(3, done=0, held=0, waiting=3)
        assert shards.is_wanted(session, SET)


def test_a_set_that_was_just_opened_again_is_not_deleted(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as session:
        old, _ = make_running_job(session)
        _open(session, old.id)
        _end(session, old)
        _open(session, make_job(session).id)
    with sessions.begin() as session:
        assert shards.unused_sets(session, older_than=LATER) == ()

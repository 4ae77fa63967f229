"""Who works on a shard: one worker at a time, on SQLite and on PostgreSQL."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from threading import Barrier
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session, sessionmaker

from jobs import repository, shards
from jobs.artifacts import StoredArtifact
from jobs.errors import LeaseLost
from jobs.models import Shard, ShardSet
from jobs.shards import ShardLease, Tally
from tests.factories import NOON, make_job

SET = "5" * 64
SECOND = timedelta(seconds=1)
LATER = NOON + 10 * SECOND
STORED = StoredArtifact(sha256="a" * 64, size_bytes=7, media_type="x/y")
IMAGES = StoredArtifact(sha256="b" * 64, size_bytes=9, media_type="x/y")


def _open(session: Session, num_shards: int = 3) -> UUID:
    job = make_job(session)
    shards.open_set(
        session, job.id, digest=SET, request={}, num_shards=num_shards, now=NOON
    )
    return job.id


def _claim(
    session: Session,
    *,
    owner: str = "worker-1",
    now: datetime = NOON,
    stale_before: datetime = NOON - 60 * SECOND,
    max_attempts: int | None = None,
) -> ShardLease | None:
    return shards.claim_shard(
        session,
        SET,
        owner=owner,
        now=now,
        stale_before=stale_before,
        max_attempts=max_attempts,
    )


def _held(session: Session, **options: Any) -> ShardLease:  # noqa: ANN401 - as _claim
    lease = _claim(session, **options)
    assert lease is not None
    return lease


def _finish(session: Session, lease: ShardLease, now: datetime = NOON) -> None:
    shards.finish_shard(
        session, lease, stored=STORED, images=IMAGES, seconds=1.5, now=now
    )


def _row(session: Session, number: int = 0) -> Shard:
    return session.get_one(Shard, (SET, number), populate_existing=True)


def _columns(session: Session, number: int = 0) -> dict[str, object]:
    row = _row(session, number)
    return {name: getattr(row, name) for name in Shard.__table__.columns.keys()}  # noqa: SIM118 - not a dict


def test_shards_are_claimed_in_order_until_none_is_free(session: Session) -> None:
    _open(session)
    leases = [_claim(session) for _ in range(4)]
    assert leases == [
        *(ShardLease(SET, number, "worker-1", 1) for number in range(3)),
        None,
    ]
    assert shards.tally(session, SET) == Tally(3, done=0, held=3, waiting=0)


def test_a_claim_is_exclusive_among_many_racing_connections(
    sessions: sessionmaker[Session],
) -> None:
    num_shards, num_workers = 60, 8
    with sessions.begin() as session:
        _open(session, num_shards)
    barrier = Barrier(num_workers)

    def work(worker: int) -> list[ShardLease]:
        won: list[ShardLease] = []
        barrier.wait()
        while True:
            with sessions.begin() as session:
                lease = _claim(session, owner=f"{worker}")
            if lease is None:
                return won
            won.append(lease)

    with ThreadPoolExecutor(num_workers) as pool:
        wins = [lease for won in pool.map(work, range(num_workers)) for lease in won]
    # None was taken twice, and none was left because another was just looking at it.
    assert sorted(lease.number for lease in wins) == list(range(num_shards))
    with sessions() as session:
        rows = session.scalars(select(Shard)).all()
    assert {(row.attempt, row.lease_token) for row in rows} == {(1, 1)}
    owners = {lease.number: lease.owner for lease in wins}
    assert {row.number: row.lease_owner for row in rows} == owners


def test_the_last_shard_has_one_winner(sessions: sessionmaker[Session]) -> None:
    num_workers = 8
    for number in range(5):
        digest = f"{number}" * 64
        with sessions.begin() as session:
            job = make_job(session)
            shards.open_set(
                session, job.id, digest=digest, request={}, num_shards=1, now=NOON
            )
        barrier = Barrier(num_workers)

        def race(worker: int, digest: str = digest, barrier: Barrier = barrier) -> bool:
            barrier.wait()
            with sessions.begin() as session:
                lease = shards.claim_shard(
                    session,
                    digest,
                    owner=f"{worker}",
                    now=NOON,
                    stale_before=NOON - SECOND,
                )
            return lease is not None

        with ThreadPoolExecutor(num_workers) as pool:
            assert sum(pool.map(race, range(num_workers))) == 1


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_on_postgresql_nobody_waits_until_another_has_committed(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as session:
        _open(session, 2)
    with sessions.begin() as first, sessions.begin() as second:
        second.execute(text("SET LOCAL lock_timeout = '2s'"))
        assert _held(first).number == 0
        assert _held(second).number == 1
        assert _claim(second) is None


def test_two_take_over_a_silent_workers_shard_and_one_gets_it(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as session:
        _open(session, 1)
        _held(session, owner="dead")
    barrier = Barrier(4)

    def take(worker: int) -> bool:
        barrier.wait()
        with sessions.begin() as session:
            late = NOON + 61 * SECOND
            taken = _claim(
                session, owner=f"{worker}", now=late, stale_before=NOON + SECOND
            )
        return taken is not None

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(take, range(4))) == 1


def test_claiming_leaves_other_sets_alone(session: Session) -> None:
    job_id = _open(session, 1)
    other = "6" * 64
    shards.open_set(session, job_id, digest=other, request={}, num_shards=1, now=NOON)
    assert _claim(session) is not None
    assert _claim(session) is None
    assert shards.tally(session, other) == Tally(1, done=0, held=0, waiting=1)


def test_a_shard_whose_worker_is_silent_is_taken_over_after_the_fresh_ones(
    session: Session,
) -> None:
    _open(session, 2)
    lost = _held(session)
    # A heartbeat of exactly the limit still counts as alive.
    assert _held(session, stale_before=NOON).number == 1
    assert _claim(session, stale_before=NOON) is None
    taken = _held(session, owner="worker-2", now=LATER, stale_before=LATER)
    assert (taken.number, taken.token) == (lost.number, lost.token + 1)
    assert _row(session).attempt == 2


def test_a_shard_begun_least_often_comes_first(session: Session) -> None:
    _open(session, 3)
    shards.release_shard(session, _held(session), now=NOON, failed=True)
    order = [_held(session).number for _ in range(3)]
    assert order == [1, 2, 0]


def test_who_takes_only_what_was_begun_seldom_leaves_the_rest(session: Session) -> None:
    _open(session, 1)
    for _ in range(2):
        lease = _held(session, max_attempts=2)
        shards.release_shard(session, lease, now=NOON, failed=True)
    assert _claim(session, max_attempts=2) is None
    assert _claim(session) is not None


def test_who_failed_is_remembered_until_another_fails(session: Session) -> None:
    _open(session, 2)
    lease = _held(session, owner="ill")
    shards.release_shard(session, lease, now=NOON, failed=False)
    assert not shards.has_failed(session, SET, owner="ill")
    lease = _held(session, owner="ill")
    shards.release_shard(session, lease, now=NOON, failed=True)
    assert shards.has_failed(session, SET, owner="ill")
    assert not shards.has_failed(session, SET, owner="well")
    assert not shards.has_failed(session, "6" * 64, owner="ill")
    _held(session)
    lease = _held(session, owner="well")
    shards.release_shard(session, lease, now=NOON, failed=True)
    assert not shards.has_failed(session, SET, owner="ill")


def test_a_shutdown_does_not_count_as_an_attempt(session: Session) -> None:
    _open(session, 1)
    shards.release_shard(session, _held(session), now=NOON, failed=False)
    assert _row(session).attempt == 0
    assert shards.tally(session, SET) == Tally(1, done=0, held=0, waiting=1)
    assert _held(session, max_attempts=1).token == 2


def test_a_heartbeat_keeps_the_shard(session: Session) -> None:
    _open(session, 1)
    lease = _held(session)
    assert shards.beat_shard(session, lease, now=LATER)
    assert _row(session).heartbeat_at == LATER
    assert _claim(session, now=LATER, stale_before=LATER) is None


def test_a_heartbeat_says_when_nobody_wants_the_set_any_more(session: Session) -> None:
    first = _open(session, 1)
    second = _open(session, 1)
    lease = _held(session)
    repository.request_cancel(session, first, now=NOON)
    assert shards.beat_shard(session, lease, now=LATER)
    assert repository.claim(session, second, owner="w", now=NOON) is not None
    assert shards.beat_shard(session, lease, now=LATER)
    # It runs, and is told to stop: nothing more is wanted of it.
    repository.request_cancel(session, second, now=NOON)
    assert not shards.beat_shard(session, lease, now=LATER)


def test_a_finished_shard_says_who_made_what_and_is_not_claimed_again(
    session: Session,
) -> None:
    _open(session, 1)
    _finish(session, _held(session, owner="maker"), now=LATER)
    row = _row(session)
    assert (row.sha256, row.size_bytes) == (STORED.sha256, 7)
    assert (row.images_sha256, row.images_bytes) == (IMAGES.sha256, 9)
    assert (row.seconds, row.finished_at, row.lease_owner) == (1.5, LATER, "maker")
    used = session.get_one(ShardSet, SET, populate_existing=True).used_at
    assert used == LATER
    far = NOON + timedelta(days=1)
    assert _claim(session, now=far, stale_before=far) is None


ENDINGS: dict[str, Callable[[Session, ShardLease], Any]] = {
    "beat": lambda s, x: shards.beat_shard(s, x, now=LATER),
    "finish": _finish,
    "fail": lambda s, x: shards.release_shard(s, x, now=LATER, failed=True),
    "give back": lambda s, x: shards.release_shard(s, x, now=LATER, failed=False),
}


@pytest.mark.parametrize("state", ["free", "claimed again", "done"])
def test_a_worker_that_was_given_up_can_change_nothing(
    sessions: sessionmaker[Session], state: str
) -> None:
    with sessions.begin() as session:
        _open(session, 1)
        stale = _held(session)
        # Even by the same process: the token tells the two claims apart.
        lease = _held(session, now=LATER, stale_before=LATER)
        if state == "free":
            shards.release_shard(session, lease, now=LATER, failed=False)
        if state == "done":
            _finish(session, lease)
    with sessions() as session:
        before = _columns(session)
    for act in ENDINGS.values():
        with pytest.raises(LeaseLost), sessions.begin() as session:
            act(session, stale)
    with sessions() as session:
        assert _columns(session) == before


def test_a_shard_is_finished_once(session: Session) -> None:
    _open(session, 1)
    lease = _held(session)
    _finish(session, lease)
    for act in ENDINGS.values():
        with pytest.raises(LeaseLost):
            act(session, lease)


def test_nothing_is_committed_here(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        _open(session, 1)
    with sessions() as session:
        assert _claim(session) is not None
    with sessions() as session:
        assert shards.tally(session, SET).waiting == 1

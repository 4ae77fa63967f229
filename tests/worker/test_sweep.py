import os
from datetime import datetime, timedelta

import pytest
from sqlalchemy.orm import Session, sessionmaker

from jobs import repository, shards
from jobs.artifacts import LocalStore, StoredArtifact
from jobs.settings import Settings
from jobs.shards import ShardLease
from tests.factories import make_running_job
from worker.clock import utc_now
from worker.sweep import sweep_shards

OLD, NEW = "5" * 64, "6" * 64


class Shelf:
    """Sets and their files, as they are after some time."""

    def __init__(
        self, settings: Settings, sessions: sessionmaker[Session], store: LocalStore
    ) -> None:
        self.settings, self.sessions, self.store = settings, sessions, store
        self.now = utc_now()
        self.recently = self.now - timedelta(days=settings.shard_days / 2)
        self.long_ago = self.now - timedelta(days=settings.shard_days + 1)

    def put(self, data: bytes, at: datetime) -> StoredArtifact:
        stored = self.store.put_bytes(data, media_type="x/y")
        path = self.store.path(stored.sha256)
        assert path is not None
        os.utime(path, (at.timestamp(), at.timestamp()))
        return stored

    def make_set(
        self, digest: str, files: list[bytes], *, at: datetime, ended: bool = True
    ) -> repository.Lease:
        with self.sessions.begin() as session:
            job, lease = make_running_job(session, now=at)
            shards.open_set(
                session,
                job.id,
                digest=digest,
                request={},
                num_shards=len(files),
                now=at,
            )
            for data in files:
                self._finish(session, digest, data, at)
            if ended:
                repository.finish(session, lease, result={}, artifacts={}, now=at)
        return lease

    def sweep(self) -> list[str]:
        return sweep_shards(self.sessions, self.store, self.settings, now=self.now)

    def _finish(
        self, session: Session, digest: str, data: bytes, at: datetime
    ) -> ShardLease:
        lease = shards.claim_shard(session, digest, owner="w", now=at, stale_before=at)
        assert lease is not None
        stored = self.put(data, at)
        shards.finish_shard(
            session, lease, stored=stored, images=None, seconds=1.0, now=at
        )
        return lease


@pytest.fixture
def shelf(
    settings: Settings, sessions: sessionmaker[Session], store: LocalStore
) -> Shelf:
    return Shelf(settings, sessions, store)


def _names(shelf: Shelf) -> set[bytes]:
    root = shelf.settings.artifacts_directory
    return {path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_old_sets_and_their_files_are_swept_and_others_stay(shelf: Shelf) -> None:
    shelf.make_set(OLD, [b"a", b"b"], at=shelf.long_ago)
    shelf.make_set(NEW, [b"c"], at=shelf.recently)
    assert shelf.sweep() == [OLD]
    assert _names(shelf) == {b"c"}
    assert shelf.sweep() == []
    with shelf.sessions() as session:
        assert shards.set_request(session, OLD) is None
        assert shards.tally(session, NEW).done == 1


def test_a_file_that_another_row_names_stays(shelf: Shelf) -> None:
    shelf.make_set(OLD, [b"alone", b"shared", b"artifact"], at=shelf.long_ago)
    shelf.make_set(NEW, [b"shared"], at=shelf.recently)
    with shelf.sessions.begin() as session:
        _, lease = make_running_job(session)
        made = {"checkpoint": shelf.put(b"artifact", shelf.long_ago)}
        repository.finish(session, lease, result={}, artifacts=made, now=shelf.now)
    # Its age alone would have let it go.
    shelf.put(b"shared", shelf.long_ago)
    assert shelf.sweep() == [OLD]
    assert _names(shelf) == {b"shared", b"artifact"}


def test_a_file_that_was_just_stored_again_stays_until_its_row_is_there(
    shelf: Shelf,
) -> None:
    shelf.make_set(OLD, [b"old", b"stored again"], at=shelf.long_ago)
    # Another worker has stored the same bytes and names them in a moment.
    shelf.put(b"stored again", shelf.recently)
    assert shelf.sweep() == [OLD]
    assert _names(shelf) == {b"stored again"}


def test_a_set_of_a_job_that_still_runs_stays_however_old(shelf: Shelf) -> None:
    lease = shelf.make_set(OLD, [b"a"], at=shelf.long_ago, ended=False)
    assert shelf.sweep() == []
    with shelf.sessions.begin() as session:
        repository.finish(session, lease, result={}, artifacts={}, now=shelf.now)
    assert shelf.sweep() == [OLD]
    assert _names(shelf) == set()

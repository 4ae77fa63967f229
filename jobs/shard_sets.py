"""SQL of shard sets: open one, count it, read what came of it, delete the unused.

A set is named by a digest of everything that decides its shards' bytes. Jobs that need
the same set share it, and whoever finishes a shard finishes it for all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Exists, and_, delete, exists, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from jobs.models import Artifact, Base, Job, JobShardSet, Json, Shard, ShardSet
from jobs.status import JobStatus


@dataclass(frozen=True)
class ShardResult:
    """The files of a finished shard."""

    number: int
    sha256: str
    """Of the file with its features."""
    size_bytes: int
    images_sha256: str | None
    """Of the tar with its images; None: they were not kept."""
    images_bytes: int | None
    seconds: float
    """What making it took."""


@dataclass(frozen=True)
class Tally:
    """How many of a set's shards are done, worked on, and free."""

    num_shards: int
    done: int
    held: int
    waiting: int


def open_set(
    session: Session,
    job_id: UUID,
    *,
    digest: str,
    request: Mapping[str, Any],
    num_shards: int,
    now: datetime,
) -> None:
    """Say that a job needs this set; its shards are inserted if they are not there.

    Opening it again, or by several jobs at once, changes nothing but when it was last
    used. Open one set per transaction: each locks its row.

    Raises:
        ValueError: the digest is that of a set with another number of shards.
    """
    found = session.scalars(
        _insert(session, ShardSet)
        .values(
            digest=digest,
            request=dict(request),
            num_shards=num_shards,
            created_at=now,
            used_at=now,
        )
        .on_conflict_do_update(index_elements=["digest"], set_={"used_at": now})
        .returning(ShardSet.num_shards)
    ).one()
    if found != num_shards:
        raise ValueError(f"shard set {digest} has {found} shards, not {num_shards}")
    if not session.scalars(select(exists().where(Shard.set_digest == digest))).one():
        rows = [
            {"set_digest": digest, "number": number, "attempt": 0, "lease_token": 0}
            for number in range(num_shards)
        ]
        session.execute(_insert(session, Shard), rows)
    session.execute(
        _insert(session, JobShardSet)
        .values(job_id=job_id, set_digest=digest)
        .on_conflict_do_nothing()
    )


def set_request(session: Session, digest: str) -> Json | None:
    """Return what the set's shards are made from; None if there is no such set."""
    return session.scalars(
        select(ShardSet.request).where(ShardSet.digest == digest)
    ).one_or_none()


def is_wanted(session: Session, digest: str) -> bool:
    """Return whether a job that is queued or running needs the set."""
    return session.scalars(select(_is_active(digest))).one()


def tally(
    session: Session, digest: str, *, stale_before: datetime | None = None
) -> Tally:
    """Count a set's shards; those of workers silent since `stale_before` are free.

    Raises:
        ValueError: no set has that digest.
    """
    held = and_(Shard.lease_owner.is_not(None), Shard.sha256.is_(None))
    if stale_before is not None:
        held = and_(held, Shard.heartbeat_at >= stale_before)
    total, done, owned = session.execute(
        select(func.count(), func.count(Shard.sha256), func.count().filter(held)).where(
            Shard.set_digest == digest
        )
    ).one()
    if not total:
        raise ValueError(f"there is no shard set {digest}: open it first")
    return Tally(total, done=done, held=owned, waiting=total - done - owned)


def results(session: Session, digest: str) -> tuple[ShardResult, ...]:
    """Return the set's finished shards, by number."""
    rows = session.scalars(
        select(Shard)
        .where(Shard.set_digest == digest, Shard.sha256.is_not(None))
        .order_by(Shard.number)
        .execution_options(populate_existing=True)
    )
    return tuple(map(_result, rows))


def forget_result(session: Session, digest: str, *, number: int, sha256: str) -> None:
    """Free a finished shard whose file is lost; one that was made anew stays."""
    session.execute(
        update(Shard)
        .where(
            Shard.set_digest == digest,
            Shard.number == number,
            Shard.sha256 == sha256,
        )
        .values(
            lease_owner=None,
            finished_at=None,
            sha256=None,
            size_bytes=None,
            images_sha256=None,
            images_bytes=None,
            seconds=None,
        )
        .execution_options(synchronize_session=False)
    )


def unused_sets(session: Session, *, older_than: datetime) -> tuple[str, ...]:
    """Return the sets last used before then that no queued or running job needs.

    Until the transaction ends, no job can open one of them: delete them in it.
    """
    return tuple(
        session.scalars(
            select(ShardSet.digest)
            .where(ShardSet.used_at < older_than, ~_is_active(ShardSet.digest))
            .order_by(ShardSet.digest)
            .with_for_update(skip_locked=True)
        )
    )


def delete_set(session: Session, digest: str) -> tuple[str, ...]:
    """Delete a set; return the SHA-256s of its files that nothing else refers to.

    The caller deletes those once this is committed, if they are old
    (`ArtifactStore.delete`): another worker may just have stored the same bytes.
    """
    orphans: set[str] = set()
    for column in (Shard.sha256, Shard.images_sha256):
        orphans.update(
            sha256
            for sha256 in session.scalars(
                select(column).where(
                    Shard.set_digest == digest,
                    column.is_not(None),
                    ~exists().where(Artifact.sha256 == column),
                    ~_is_in_another_set(column, digest),
                )
            )
            if sha256 is not None
        )
    session.execute(
        delete(ShardSet)
        .where(ShardSet.digest == digest)
        .execution_options(synchronize_session=False)
    )
    return tuple(sorted(orphans))


def _is_active(digest: str | InstrumentedAttribute[str]) -> Exists:
    return exists().where(
        JobShardSet.set_digest == digest,
        Job.id == JobShardSet.job_id,
        # A job that is being cancelled wants nothing any more.
        Job.status.in_((JobStatus.QUEUED, JobStatus.RUNNING)),
    )


def _is_in_another_set(
    column: InstrumentedAttribute[str | None], digest: str
) -> Exists:
    other = aliased(Shard)
    return exists().where(
        other.set_digest != digest,
        or_(other.sha256 == column, other.images_sha256 == column),
    )


def _result(row: Shard) -> ShardResult:
    assert row.sha256 is not None  # noqa: S101 - the query asks for that
    assert row.size_bytes is not None  # noqa: S101
    assert row.seconds is not None  # noqa: S101
    return ShardResult(
        number=row.number,
        sha256=row.sha256,
        size_bytes=row.size_bytes,
        images_sha256=row.images_sha256,
        images_bytes=row.images_bytes,
        seconds=row.seconds,
    )


def _insert(session: Session, table: type[Base]) -> "sqlite.Insert | postgresql.Insert":
    dialect = session.get_bind().dialect.name
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)

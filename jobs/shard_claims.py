"""SQL of a worker on a shard: claim it, keep its lease, finish it or give it back.

Every change is one conditional UPDATE on the lease's token, so a worker that was taken
for dead and comes back cannot touch a row that is no longer its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import exists, or_, select, update
from sqlalchemy.orm import Session

from jobs.artifacts import StoredArtifact
from jobs.errors import LeaseLost
from jobs.models import Shard, ShardSet
from jobs.shard_sets import is_wanted


@dataclass(frozen=True)
class ShardLease:
    """The right to work on a shard: valid while its row still carries this token."""

    digest: str
    number: int
    owner: str
    token: int


def claim_shard(
    session: Session,
    digest: str,
    *,
    owner: str,
    now: datetime,
    stale_before: datetime,
    max_attempts: int | None = None,
) -> ShardLease | None:
    """Take a shard that is free or whose worker fell silent; None if there is none.

    Those that were begun least often come first. One that was begun `max_attempts`
    times is left to others.
    """
    claimable = [
        Shard.set_digest == digest,
        Shard.sha256.is_(None),
        or_(Shard.lease_owner.is_(None), Shard.heartbeat_at < stale_before),
    ]
    if max_attempts is not None:
        claimable.append(Shard.attempt < max_attempts)
    first = (
        select(Shard.number)
        .where(*claimable)
        .order_by(Shard.attempt, Shard.number)
        .limit(1)
        # PostgreSQL: those who claim at the same moment take one each. SQLite has one
        # writer at a time, and no such clause.
        .with_for_update(skip_locked=True)
        .correlate(None)
        .scalar_subquery()
    )
    found = session.execute(
        update(Shard)
        .where(*claimable, Shard.number == first)
        .values(
            attempt=Shard.attempt + 1,
            lease_owner=owner,
            lease_token=Shard.lease_token + 1,
            heartbeat_at=now,
            started_at=now,
        )
        .returning(Shard.number, Shard.lease_token)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if found is None:
        return None
    return ShardLease(digest, found.number, owner, found.lease_token)


def beat_shard(session: Session, lease: ShardLease, *, now: datetime) -> bool:
    """Say that the worker lives; return whether any job still wants the set.

    Raises:
        LeaseLost: the shard is no longer this worker's; the row is unchanged.
    """
    _held(session, lease, {"heartbeat_at": now})
    return is_wanted(session, lease.digest)


def finish_shard(
    session: Session,
    lease: ShardLease,
    *,
    stored: StoredArtifact,
    images: StoredArtifact | None,
    seconds: float,
    now: datetime,
) -> None:
    """Record the files of a finished shard.

    Raises:
        LeaseLost: the shard is no longer this worker's; nothing is recorded.
    """
    # The set before its shard, in the order of those who delete it.
    session.execute(
        update(ShardSet)
        .where(ShardSet.digest == lease.digest)
        .values(used_at=now)
        .execution_options(synchronize_session=False)
    )
    values = {
        "sha256": stored.sha256,
        "size_bytes": stored.size_bytes,
        "images_sha256": images.sha256 if images else None,
        "images_bytes": images.size_bytes if images else None,
        "seconds": seconds,
        "heartbeat_at": now,
        "finished_at": now,
    }
    _held(session, lease, values)


def release_shard(
    session: Session, lease: ShardLease, *, now: datetime, failed: bool
) -> None:
    """Give a shard back; only a failure counts as an attempt, and is remembered.

    Raises:
        LeaseLost: the shard is no longer this worker's; the row is unchanged.
    """
    values: dict[str, Any] = {"lease_owner": None, "heartbeat_at": now}
    if failed:
        values["failed_by"] = lease.owner
    else:
        values["attempt"] = Shard.attempt - 1
    _held(session, lease, values)


def has_failed(session: Session, digest: str, *, owner: str) -> bool:
    """Return whether a shard of the set failed on this worker, and on none since."""
    return session.scalars(
        select(exists().where(Shard.set_digest == digest, Shard.failed_by == owner))
    ).one()


def _held(session: Session, lease: ShardLease, values: Mapping[str, Any]) -> None:
    held = session.execute(
        update(Shard)
        .where(
            Shard.set_digest == lease.digest,
            Shard.number == lease.number,
            Shard.lease_owner == lease.owner,
            Shard.lease_token == lease.token,
            Shard.sha256.is_(None),
        )
        .values(values)
        .returning(Shard.number)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if held is None:
        raise LeaseLost(
            f"Shard {lease.number} is no longer held under token {lease.token}.",
            hint="Stop working on it: another worker has it, or it is done.",
        )

"""An evaluation's shards as the ledger has them, and a helper's sudden end."""

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Final
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from jobs.models import Job, JobShardSet, Shard

POLL_SECONDS: Final = 0.02
WAIT_SECONDS: Final = 600.0


@dataclass(frozen=True)
class Holding:
    """A lease on a shard."""

    digest: str
    """Of its set."""
    number: int
    token: int
    owner: str


def shards_of(session: Session, job_id: UUID) -> Sequence[Shard]:
    """Return the shards that a job needs, by set and number."""
    return session.scalars(
        select(Shard)
        .join(JobShardSet, JobShardSet.set_digest == Shard.set_digest)
        .where(JobShardSet.job_id == job_id)
        .order_by(Shard.set_digest, Shard.number)
    ).all()


def kill_helper(sessions: sessionmaker[Session], job_id: UUID) -> Holding:
    """Kill (SIGKILL) a helper while it holds a shard of the job; return which.

    Not before a quarter of the shards is done. On this machine only.

    Raises:
        RuntimeError: no helper was caught before the job was over.
    """
    deadline = monotonic() + WAIT_SECONDS
    before: set[Holding] | None = None
    while monotonic() < deadline:
        held, share_done = _helpers_shards(sessions, job_id)
        # One that was just claimed will be held for a while yet.
        fresh = held - before if before is not None else set()
        if fresh and share_done >= 0.25:
            caught = fresh.pop()
            os.kill(process_of(caught.owner), signal.SIGKILL)
            # What was finished at that very moment does not count.
            if caught in _helpers_shards(sessions, job_id)[0]:
                return caught
        if share_done == 1:
            break
        before = held
        sleep(POLL_SECONDS)
    raise RuntimeError("no helper was caught while it held a shard")


def process_of(owner: str) -> int:
    """Return the process that a lease's owner names."""
    return int(owner.rpartition(":")[2])


def _helpers_shards(
    sessions: sessionmaker[Session], job_id: UUID
) -> tuple[set[Holding], float]:
    """Return what others than the job's own worker hold, and the share that is done."""
    with sessions.begin() as session:
        job = session.get_one(Job, job_id)
        shards = shards_of(session, job_id)
        held = {
            Holding(
                shard.set_digest, shard.number, shard.lease_token, shard.lease_owner
            )
            for shard in shards
            if shard.sha256 is None
            and shard.lease_owner is not None
            and shard.lease_owner != job.lease_owner
        }
        done = sum(shard.sha256 is not None for shard in shards)
    return held, done / len(shards) if shards else 0.0

"""A worker that was taken for dead comes back: its token opens nothing any more."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

from jobs import repository
from jobs.artifacts import StoredArtifact
from jobs.errors import ArtifactNotFound, LeaseLost
from jobs.models import Job
from jobs.repository import Lease
from jobs.settings import Settings
from jobs.stages import Progress
from jobs.status import JobStatus
from tests.factories import NOON, make_running_job

LATER = NOON + timedelta(seconds=10)
HALF = Progress("calibrate", 1, 4, done=5, total=10, unit="step", fraction=0.5)
STORED = StoredArtifact(
    sha256="c" * 64, size_bytes=7, media_type="application/octet-stream"
)


ENDINGS: dict[str, Callable[[Session, Lease], Any]] = {
    "heartbeat": lambda s, x: repository.heartbeat(s, x, progress=HALF, now=LATER),
    "describe": lambda s, x: repository.describe(
        s, x, model_info={"stale": 1}, environment={}, now=LATER
    ),
    "finish": lambda s, x: repository.finish(
        s, x, result={"stale": 1}, artifacts={"checkpoint": STORED}, now=LATER
    ),
    "fail": lambda s, x: repository.fail(s, x, error={"code": "stale"}, now=LATER),
    "cancelled": lambda s, x: repository.cancelled(s, x, now=LATER),
    "release": lambda s, x: repository.release(s, x, now=LATER),
}


def _columns(job: Job) -> dict[str, object]:
    return {name: getattr(job, name) for name in Job.__table__.columns.keys()}  # noqa: SIM118 - not a dict


@pytest.mark.parametrize("act", ENDINGS.values(), ids=ENDINGS.keys())
@pytest.mark.parametrize("state", ["queued", "claimed again", "ended"])
def test_a_worker_that_was_given_up_can_change_nothing(
    sessions: sessionmaker[Session],
    settings: Settings,
    act: Callable[[Session, Lease], Any],
    state: str,
) -> None:
    silent = timedelta(seconds=settings.lease_seconds + 1)
    with sessions.begin() as session:
        job, stale = make_running_job(session, now=NOON)
        repository.reap(session, now=NOON + silent, settings=settings)
        assert job.status == JobStatus.QUEUED
        if state != "queued":
            # Even by the same process: the token tells the two claims apart.
            again = repository.claim(session, job.id, owner=stale.owner, now=LATER)
            assert again is not None
            if state == "ended":
                lease = repository.lease_of(again)
                repository.finish(session, lease, result={}, artifacts={}, now=LATER)
    with sessions() as session:
        before = _columns(repository.get(session, job.id))
    with pytest.raises(LeaseLost), sessions.begin() as session:
        act(session, stale)
    with sessions() as session:
        assert _columns(repository.get(session, job.id)) == before
        with pytest.raises(ArtifactNotFound):
            repository.artifact(session, STORED.sha256)

"""One evaluation on a stack of its own: by one worker, by several, one of them killed.

Each run is `tcaq up` on a fresh data directory: nothing is reused. Every worker has one
thread, so two workers use two cores. Before the clock starts, each has made a shard of
another evaluation: what is timed is work, not the import of torch.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Engine, distinct, func, select
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.evaluation_ledger import kill_helper, shards_of
from benchmarks.evaluation_runs import Made, Run
from examples.stack import Stack
from jobs.database import make_sessions
from jobs.ids import parse_id
from jobs.models import Job, Shard
from jobs.settings import Settings
from tcaq_client import Client

LEASE_SECONDS: Final = 6
HEARTBEAT_SECONDS: Final = 1
WARM_SHARDS: Final = 5
WARM_JOBS: Final = 10
WARM_SEED: Final = 1_000_000


@dataclass(frozen=True)
class Ground:
    """What is evaluated, and in what."""

    models: Path
    model: str
    evaluation: Path
    """Folder of extractors and references."""
    extractor: str
    reference: str
    num_images: int
    num_steps: int
    shard_images: int

    def request(self, *, seed: int, num_images: int) -> Mapping[str, Any]:
        """Return the `evaluation` of a request: the Frechet distance of a model."""
        return {
            "protocol": "quick",
            "metrics": ["fd"],
            "extractor": self.extractor,
            "reference": self.reference,
            "num_images": num_images,
            "num_steps": self.num_steps,
            "shard_images": self.shard_images,
            "batch_size": self.shard_images,
            "baseline": False,
            "seed": seed,
        }


def run(ground: Ground, folder: Path, *, helpers: int, kill: bool = False) -> Run:
    """Evaluate once, with so many helpers beside the job's own worker.

    With `kill`, one helper is killed (SIGKILL) while it holds a shard.

    Raises:
        RuntimeError: a worker did not come, or no helper was caught at work.
        tcaq_client.JobFailed: the evaluation failed.
    """
    folder.mkdir(parents=True)
    data = folder / "data"
    command = _command(ground, helpers=helpers)
    stack = Stack(data=data, log=folder / "stack.log", command=command)
    with stack, Client(stack.url) as client, _ledger(data) as sessions:
        _warm_up(client, sessions, ground, workers=1 + helpers)
        request = ground.request(seed=0, num_images=ground.num_images)
        job = client.evaluate(ground.model, evaluation=request)
        if kill:
            kill_helper(sessions, parse_id(job.id))
        ended = client.wait(job.id)
        scores = (ended.result or {})["evaluation"]["scores"]
        return _read(sessions, parse_id(job.id), scores)


def _command(ground: Ground, *, helpers: int) -> list[str | Path]:
    # The stack starts without the TCAQ_ variables of this process.
    variables = {
        "OMP_NUM_THREADS": 1,
        "TCAQ_DEVICE": "cpu",
        "TCAQ_LEASE_SECONDS": LEASE_SECONDS,
        "TCAQ_HEARTBEAT_SECONDS": HEARTBEAT_SECONDS,
        "TCAQ_MODELS_DIRECTORY": ground.models,
        "TCAQ_EVALUATION_DIRECTORY": ground.evaluation,
    }
    tcaq = Path(sys.executable).with_name("tcaq")
    named = [f"{name}={value}" for name, value in variables.items()]
    return ["/usr/bin/env", *named, tcaq, "up", "--workers", str(helpers)]


@contextmanager
def _ledger(data: Path) -> Iterator[sessionmaker[Session]]:
    sessions = make_sessions(Settings(data_directory=data, database_url=None))
    try:
        yield sessions
    finally:
        engine = sessions.kw["bind"]
        assert isinstance(engine, Engine)  # noqa: S101 - as make_sessions says
        engine.dispose()


def _warm_up(
    client: Client, sessions: sessionmaker[Session], ground: Ground, *, workers: int
) -> None:
    """Run small evaluations until every worker has made a shard."""
    num_images = WARM_SHARDS * ground.shard_images
    for number in range(WARM_JOBS):
        request = ground.request(seed=WARM_SEED + number, num_images=num_images)
        client.wait(client.evaluate(ground.model, evaluation=request).id)
        with sessions.begin() as session:
            seen = session.scalar(select(func.count(distinct(Shard.lease_owner))))
        if seen == workers:
            return
    raise RuntimeError(f"{seen} of {workers} workers made shards: see their logs")


def _read(
    sessions: sessionmaker[Session], job_id: UUID, scores: list[dict[str, Any]]
) -> Run:
    with sessions.begin() as session:
        job = session.get_one(Job, job_id)
        shards = tuple(map(_made, shards_of(session, job_id)))
    assert job.started_at is not None  # noqa: S101 - it has ended
    assert job.finished_at is not None  # noqa: S101
    return Run(
        scores=json.dumps(scores),
        value=scores[0]["value"],
        num_images=scores[0]["n_generated"],
        began_at=job.started_at,
        ended_at=job.finished_at,
        shards=shards,
    )


def _made(row: Shard) -> Made:
    assert row.lease_owner is not None  # noqa: S101 - all are done
    assert row.started_at is not None  # noqa: S101
    assert row.finished_at is not None  # noqa: S101
    assert row.seconds is not None  # noqa: S101
    return Made(row.lease_owner, row.started_at, row.finished_at, row.seconds)

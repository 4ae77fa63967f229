"""Evaluations by several processes, some of them killed: the scores are the same."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http.client import HTTPConnection
from time import monotonic, sleep
from typing import Any
from uuid import UUID

import pytest

from benchmarks.evaluation_ledger import kill_helper, shards_of
from jobs import shards as ledger
from jobs.ids import parse_id
from jobs.models import Shard
from jobs.queue import ring_shards
from jobs.status import JobStatus
from tcaq_client import Client
from tests.conftest import free_port
from tests.e2e.deployment import (
    ROOT,
    WAIT_SECONDS,
    Deployment,
    environment_of,
    is_alive,
    kill_group,
    wait_for,
    worker_pid,
)
from tests.extractors import NAME, REFERENCE, save_evaluation_directory

pytestmark = pytest.mark.faults

IMAGES, SHARD_IMAGES = 96, 8
EVALUATION = {
    "protocol": "quick",
    "metrics": ["fd", "kd", "psnr_db", "feature_distance"],
    "extractor": NAME,
    "reference": REFERENCE,
    "num_images": IMAGES,
    "num_steps": 25,
    "batch_size": 4,
    "shard_images": SHARD_IMAGES,
    "paired_images": 20,
}
# The checkpoint's images, and the model's from the same seeds.
SHARDS = 2 * IMAGES // SHARD_IMAGES
NO_SET = "0" * 64
CALL_SECONDS = 2.0


@dataclass(frozen=True)
class Stage:
    """A deployment with a service, and a checkpoint to score."""

    deployment: Deployment
    client: Client
    quantized: str
    """The job that made the checkpoint."""

    def evaluate(self) -> UUID:
        """Queue the evaluation, of which nothing is there yet."""
        with self.deployment.sessions.begin() as session:
            for digest in ledger.unused_sets(session, older_than=datetime.now(UTC)):
                ledger.delete_set(session, digest)
        return parse_id(self.client.evaluate(self.quantized, evaluation=EVALUATION).id)

    def scores(self, job_id: UUID) -> str:
        """Wait for the job; return its scores as the service sends them."""
        job = self.client.wait(f"job_{job_id.hex}")
        assert job.result is not None
        scores: list[dict[str, Any]] = job.result["evaluation"]["scores"]
        assert [score["metric"] for score in scores] == EVALUATION["metrics"]
        assert scores[0]["baseline"]["delta"] != 0
        return json.dumps(scores)

    def shards(self, job_id: UUID) -> dict[tuple[str, int], Shard]:
        """Return the job's shards as they are now."""
        with self.deployment.sessions.begin() as session:
            rows = shards_of(session, job_id)
            return {(row.set_digest, row.number): row for row in rows}


@pytest.fixture(scope="module", name="stage")
def make_stage(
    deployment: Deployment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    directory = save_evaluation_directory(tmp_path_factory.mktemp("evaluation"))
    changed = {"evaluation_directory": directory, "port": free_port()}
    settings = deployment.settings.model_copy(update=changed)
    own = replace(deployment, settings=settings, environment=environment_of(settings))
    with _service(own) as url, Client(url) as client:
        with own.worker():
            job = client.submit("tiny", weight_bits=4, activation_bits=8, recipe="rtn")
            client.wait(job.id)
        yield Stage(own, client, job.id)


@pytest.fixture(scope="module", name="alone")
def score_alone(stage: Stage) -> str:
    """Return the scores that one worker alone finds."""
    with stage.deployment.worker():
        job_id = stage.evaluate()
        found = stage.scores(job_id)
    assert _num_owners(stage.shards(job_id)) == 1
    return found


def test_two_helpers_change_nothing(stage: Stage, alone: str) -> None:
    with _helpers(stage.deployment, 2), stage.deployment.worker("evaluate"):
        job_id = stage.evaluate()
        found = stage.scores(job_id)
    rows = stage.shards(job_id)
    assert len(rows) == SHARDS
    assert _num_owners(rows) == 3
    assert found == alone


def test_a_helper_that_is_killed_changes_nothing(stage: Stage, alone: str) -> None:
    with _helpers(stage.deployment, 1), stage.deployment.worker("evaluate"):
        job_id = stage.evaluate()
        lost = kill_helper(stage.deployment.sessions, job_id)
        found = stage.scores(job_id)
    row = stage.shards(job_id)[lost.digest, lost.number]
    assert row.lease_token > lost.token
    assert row.lease_owner != lost.owner
    assert stage.deployment.read(job_id).attempt == 1
    assert found == alone


def test_a_job_that_is_taken_over_keeps_the_shards_that_were_made(
    stage: Stage, alone: str
) -> None:
    deployment = stage.deployment

    def is_in_the_middle() -> bool:
        return len(_finished(stage.shards(job_id))) >= 3

    with deployment.worker() as worker:
        job_id = stage.evaluate()
        wait_for(is_in_the_middle, "three shards")
        first = deployment.read(job_id)
        os.killpg(worker.pid, signal.SIGKILL)
        wait_for(lambda: not is_alive(worker_pid(first)), "the worker's end")
    made = _finished(stage.shards(job_id))
    assert len(made) < SHARDS
    assert deployment.read(job_id).status == JobStatus.RUNNING
    with deployment.worker(), deployment.beat():
        found = stage.scores(job_id)
    after = _finished(stage.shards(job_id))
    assert len(after) == SHARDS
    assert made.items() <= after.items()
    last = deployment.read(job_id)
    assert (last.attempt, last.lease_owner == first.lease_owner) == (2, False)
    assert found == alone


@contextmanager
def _service(deployment: Deployment) -> Iterator[str]:
    port = deployment.settings.port
    command = ["uvicorn", "--factory", "service.app:create_app", "--port", str(port)]
    with (
        deployment.log("service").open("ab") as log,
        subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=deployment.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
        ) as process,
    ):
        try:
            wait_for(lambda: _is_ready(process, port), "the service")
            yield f"http://127.0.0.1:{port}"
        finally:
            kill_group(process)


def _is_ready(process: subprocess.Popen[bytes], port: int) -> bool:
    assert process.poll() is None
    with closing(HTTPConnection("127.0.0.1", port)) as connection:
        try:
            connection.request("GET", "/readyz")
        except ConnectionError:
            return False
        return connection.getresponse().status == 200


@contextmanager
def _helpers(deployment: Deployment, number: int) -> Iterator[None]:
    """Run workers that only help, each of which has loaded torch."""
    names = [f"helper-{i}" for i in range(number)]
    for name in names:
        deployment.log(name).unlink(missing_ok=True)
    with ExitStack() as stack:
        for name in names:
            options = ("--queues", "shards", "--hostname", f"{name}@%h")
            stack.enter_context(
                deployment.process(name, "worker", *options, "--loglevel", "INFO")
            )
        missing, deadline = list(names), monotonic() + WAIT_SECONDS
        while missing:
            assert monotonic() < deadline, f"waited too long for {missing}"
            # One of them may take the messages of all.
            _call(deployment, len(missing))
            sleep(CALL_SECONDS)
            missing = [name for name in missing if not _has_answered(deployment, name)]
        yield


def _call(deployment: Deployment, count: int) -> None:
    """Ask for help with a set that is not there."""
    with deployment.sessions.begin() as session:
        ring_shards(session, NO_SET, count, deployment.celery)


def _has_answered(deployment: Deployment, name: str) -> bool:
    text = deployment.log(name).read_text(encoding="utf-8")
    return "nobody needs that set" in text


def _finished(
    rows: Mapping[tuple[str, int], Shard],
) -> dict[tuple[str, int], tuple[datetime, str]]:
    return {
        key: (row.finished_at, row.sha256)
        for key, row in rows.items()
        if row.finished_at is not None and row.sha256 is not None
    }


def _num_owners(rows: Mapping[tuple[str, int], Shard]) -> int:
    return len({row.lease_owner for row in rows.values()})

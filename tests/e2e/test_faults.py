"""Processes are killed in the middle of a job; the job comes out as if nothing was."""

import os
import signal
from collections.abc import Callable

import pytest

from jobs import repository
from jobs.models import Job, JobKind
from jobs.status import JobStatus, is_terminal
from tcaq_core.recipe import Recipe
from tests.e2e.deployment import (
    WAIT_SECONDS,
    Deployment,
    is_alive,
    kill_group,
    wait_for,
    worker_pid,
)

pytestmark = pytest.mark.faults


def _is_in_the_middle(job: Job) -> bool:
    return job.status == JobStatus.RUNNING and job.stage == "par"


def _sha256(job: Job) -> str:
    assert job.status == JobStatus.SUCCEEDED, job.error
    assert job.result is not None
    return str(job.result["checkpoint"]["sha256"])


def test_a_job_survives_kill_9_of_the_process_that_works_on_it(
    deployment: Deployment, recipe: Recipe, undisturbed: str
) -> None:
    with deployment.worker(), deployment.beat():
        job_id = deployment.submit(JobKind.QUANTIZE, recipe=recipe)
        first = deployment.wait(job_id, _is_in_the_middle)
        os.kill(worker_pid(first), signal.SIGKILL)
        job = deployment.wait_until_ended(job_id)
        # The journal goes after the row has ended, while the worker lives.
        journals = deployment.settings.journals
        wait_for(lambda: not list(journals.iterdir()), "the journal's end")
    assert _sha256(job) == undisturbed
    assert job.attempt == 2
    assert job.lease_token > first.lease_token
    assert job.lease_owner != first.lease_owner
    assert job.started_at == first.started_at
    # It died in `par`: at least everything before was not done again.
    assert (job.resumed_from or "").startswith(("daq", "par"))


@pytest.mark.parametrize("kill", [os.kill, os.killpg], ids=["parent", "group"])
def test_a_job_survives_kill_9_of_the_whole_worker(
    deployment: Deployment,
    recipe: Recipe,
    undisturbed: str,
    kill: Callable[[int, int], None],
) -> None:
    with deployment.beat():
        with deployment.worker() as worker:
            job_id = deployment.submit(JobKind.QUANTIZE, recipe=recipe)
            first = deployment.wait(job_id, _is_in_the_middle)
            kill(worker.pid, signal.SIGKILL)
            # The child dies with its parent: nobody works on without a supervisor.
            wait_for(lambda: not is_alive(worker_pid(first)), "the child's end")
        assert deployment.read(job_id).status == JobStatus.RUNNING
        with deployment.worker():
            job = deployment.wait_until_ended(job_id)
    assert _sha256(job) == undisturbed
    assert job.attempt == 2


def test_a_cold_shutdown_gives_the_job_back_before_the_worker_ends(
    deployment: Deployment, recipe: Recipe, undisturbed: str
) -> None:
    with deployment.worker() as worker:
        job_id = deployment.submit(JobKind.QUANTIZE, recipe=recipe)
        deployment.wait(job_id, _is_in_the_middle)
        worker.send_signal(signal.SIGQUIT)
        worker.wait(WAIT_SECONDS)
        job = deployment.read(job_id)
        assert (job.status, job.attempt) == (JobStatus.QUEUED, 0)
    # No beat: the doorbell was rung when the job was given back.
    with deployment.worker():
        job = deployment.wait_until_ended(job_id)
    assert _sha256(job) == undisturbed
    assert (job.resumed_from or "").startswith(("daq", "par"))


def test_a_job_that_kills_every_worker_ends_as_worker_lost(
    deployment: Deployment, recipe: Recipe
) -> None:
    with deployment.worker(), deployment.beat():
        job_id = deployment.submit(JobKind.QUANTIZE, recipe=recipe, max_attempts=2)
        killed: list[int] = []

        def kill_or_end() -> bool:
            job = deployment.read(job_id)
            if job.status == JobStatus.RUNNING and worker_pid(job) not in killed:
                killed.append(worker_pid(job))
                os.kill(killed[-1], signal.SIGKILL)
            return is_terminal(job.status)

        wait_for(kill_or_end, "the last attempt")
        job = deployment.read(job_id)
    assert len(killed) == 2
    assert job.status == JobStatus.FAILED
    assert job.attempt == 2
    assert job.error is not None
    assert (job.error["code"], job.error["retryable"]) == ("worker_lost", True)


def test_a_worker_that_dies_while_cancelling_leaves_a_cancelled_job(
    deployment: Deployment, recipe: Recipe
) -> None:
    with deployment.beat():
        # With maintenance: a message that Redis hands to a dead worker's connection is
        # lost, and only the reaper rings again.
        with deployment.worker("quantize,maintenance") as worker:
            job_id = deployment.submit(JobKind.QUANTIZE, recipe=recipe)
            job = deployment.wait(job_id, _is_in_the_middle)
            # Stopped first, so that it cannot confirm.
            os.killpg(worker.pid, signal.SIGSTOP)
            with deployment.sessions.begin() as session:
                repository.request_cancel(session, job_id, now=job.updated_at)
            kill_group(worker)
        with deployment.worker("maintenance"):
            assert deployment.wait_until_ended(job_id).status == JobStatus.CANCELLED

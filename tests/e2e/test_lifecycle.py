import hashlib
from pathlib import Path

import pytest

from jobs import repository
from jobs.artifacts import make_store
from jobs.ids import public_id
from jobs.models import Job, JobKind
from jobs.status import JobStatus
from tcaq_core.recipe import CalibrationSpec, Recipe
from tests.e2e.deployment import Deployment, worker_pid


@pytest.fixture(scope="module", autouse=True)
def _processes(deployment: Deployment) -> object:
    with deployment.worker() as worker, deployment.beat():
        yield worker


def _is_running(job: Job) -> bool:
    return job.status == JobStatus.RUNNING


def test_a_submitted_job_succeeds_and_can_be_sampled_from(
    deployment: Deployment, recipe: Recipe
) -> None:
    job_id = deployment.submit(JobKind.QUANTIZE, recipe=recipe)
    job = deployment.wait_until_ended(job_id)
    assert job.status == JobStatus.SUCCEEDED, job.error
    assert job.result is not None
    checkpoint = job.result["checkpoint"]
    with make_store(deployment.settings).open(checkpoint["sha256"]) as file:
        assert hashlib.sha256(file.read()).hexdigest() == checkpoint["sha256"]
    assert job.result["verified"]["bit_equal"]
    passes = ["tcr", "fit_ranges", "daq", "par"]
    steps = ["fetch", "calibrate", *passes, "save", "verify", "benchmark"]
    assert [step["name"] for step in job.steps] == steps
    assert {step["status"] for step in job.steps} == {"succeeded"}

    target = {"job_id": public_id(job.kind, job.id)}
    order = {
        "target": target,
        "n": 2,
        "compare_to": "baseline",
        "sampler": {"steps": 3},
    }
    sample = deployment.wait_until_ended(
        deployment.submit(JobKind.SAMPLE, request=order)
    )
    assert sample.status == JobStatus.SUCCEEDED, sample.error
    with deployment.sessions() as session:
        made = repository.job_artifacts(session, sample.id)
    assert set(made) == {"grid", "image/0", "image/1", "baseline/0", "baseline/1"}


def test_doubled_messages_are_harmless(deployment: Deployment) -> None:
    order = {"target": {"model": "tiny"}, "n": 1, "sampler": {"steps": 2}}
    doubled = deployment.submit(JobKind.SAMPLE, request=order, rings=5)
    # Messages come in order: once this one has ended, all five have been answered.
    last = deployment.submit(JobKind.SAMPLE, request=order)
    assert deployment.wait_until_ended(last).status == JobStatus.SUCCEEDED
    job = deployment.read(doubled)
    assert (job.status, job.attempt, job.lease_token) == (JobStatus.SUCCEEDED, 1, 1)


def test_a_lost_message_is_rung_again(deployment: Deployment) -> None:
    order = {"target": {"model": "tiny"}, "n": 1, "sampler": {"steps": 2}}
    lost = deployment.submit(JobKind.SAMPLE, request=order, rings=0)
    assert deployment.wait_until_ended(lost).status == JobStatus.SUCCEEDED


def test_cancelling_really_stops_the_work(
    deployment: Deployment, recipe: Recipe
) -> None:
    # Minutes of calibration: only a real stop lets the next job have the worker.
    endless = recipe.model_copy(
        update={"calibration": CalibrationSpec(num_samples=4_000, num_steps=50)}
    )
    job_id = deployment.submit(JobKind.QUANTIZE, recipe=endless)
    running = deployment.wait(
        job_id, lambda job: _is_running(job) and job.stage == "calibrate"
    )
    with deployment.sessions.begin() as session:
        repository.request_cancel(session, job_id, now=running.updated_at)
    job = deployment.wait_until_ended(job_id)
    assert job.status == JobStatus.CANCELLED
    assert job.steps[-1]["status"] == "cancelled"
    next_id = deployment.submit(JobKind.QUANTIZE, recipe=recipe)
    assert deployment.wait_until_ended(next_id).status == JobStatus.SUCCEEDED
    # The same process went on: it was asked, not killed.
    assert deployment.read(next_id).lease_owner == running.lease_owner


def test_a_refused_model_fails_with_a_code_and_a_hint(
    deployment: Deployment, recipe: Recipe
) -> None:
    config = deployment.settings.models_directory / "broken" / "model_index.json"
    config.parent.mkdir()
    config.write_text('{"_class_name": "FluxPipeline"}')
    order = {"target": {"model": "broken"}, "n": 1}
    job_id = deployment.submit(JobKind.SAMPLE, request=order)
    job = deployment.wait_until_ended(job_id)
    assert job.status == JobStatus.FAILED
    assert job.error is not None
    assert job.error["code"] == "model_unsupported"
    assert "DDPMPipeline" in job.error["hint"]


def test_only_the_working_child_has_loaded_torch(deployment: Deployment) -> None:
    order = {"target": {"model": "tiny"}, "n": 1, "sampler": {"steps": 2}}
    job_id = deployment.submit(JobKind.SAMPLE, request=order)
    child = worker_pid(deployment.wait_until_ended(job_id))
    status = Path(f"/proc/{child}/status").read_text()
    parent = next(line for line in status.splitlines() if line.startswith("PPid"))
    assert "libtorch" in Path(f"/proc/{child}/maps").read_text()
    assert "libtorch" not in Path(f"/proc/{parent.split()[1]}/maps").read_text()

import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import pytest
import structlog
import torch
from sqlalchemy import text

from jobs import repository
from jobs.ids import new_id
from jobs.models import Job, JobKind
from jobs.repository import lease_of
from jobs.status import JobStatus
from tests.factories import make_job, make_recipe, make_running_job
from worker import run
from worker.clock import utc_now
from worker.context import Context
from worker.heart import Heart
from worker.outcome import Stopped, Succeeded
from worker.run import _is_out_of_memory, _settle, run_job

ENDLESS = make_recipe(num_samples=65_536)
LOG = structlog.stdlib.get_logger("test")


def _submit(context: Context, **job: object) -> UUID:
    with context.sessions.begin() as session:
        return make_job(session, now=utc_now(), **job).id  # type: ignore[arg-type]


def _read(context: Context, job_id: UUID) -> Job:
    with context.sessions() as session:
        return repository.get(session, job_id)


def _while_it_runs(context: Context, job_id: UUID, act: Callable[[], None]) -> None:
    """Run a job here; once it calibrates, act in another thread."""

    def wait_and_act() -> None:
        while _read(context, job_id).stage != "calibrate":
            threading.Event().wait(0.02)
        act()

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    run_job(job_id, context)
    thread.join()


def test_a_job_that_is_not_there_to_be_claimed_is_left_alone(context: Context) -> None:
    with context.sessions.begin() as session:
        job, _ = make_running_job(session)
    for job_id in (job.id, new_id()):
        run_job(job_id, context)
    assert _read(context, job.id).version == job.version


def test_what_the_science_refuses_ends_as_its_code_and_hint(context: Context) -> None:
    job_id = _submit(context, model="nowhere")
    run_job(job_id, context)
    job = _read(context, job_id)
    assert job.status == JobStatus.FAILED
    assert job.error is not None
    assert job.error["code"] == "model_not_found"
    assert job.error["retryable"] is False
    assert "tiny" in job.error["hint"]
    assert [step["status"] for step in job.steps] == ["failed"]


def test_what_nobody_expected_ends_as_internal_and_tells_only_the_log(
    context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = _submit(context)
    with context.sessions.begin() as session:
        repository.get(session, job_id).recipe = {"passes": "of another version"}
    with caplog.at_level(logging.INFO):
        run_job(job_id, context)
    job = _read(context, job_id)
    assert job.error is not None
    assert job.error["code"] == "internal"
    assert "of another version" not in str(job.error)
    assert "of another version" in caplog.text


def test_a_request_to_cancel_ends_the_work_as_cancelled(context: Context) -> None:
    job_id = _submit(context, recipe=ENDLESS)

    def cancel() -> None:
        with context.sessions.begin() as session:
            repository.request_cancel(session, job_id, now=utc_now())

    _while_it_runs(context, job_id, cancel)
    job = _read(context, job_id)
    assert job.status == JobStatus.CANCELLED
    assert job.steps[-1]["status"] == "cancelled"
    assert list(context.scratch.iterdir()) == []


def test_a_worker_that_was_given_up_leaves_the_row_to_the_next(
    context: Context,
) -> None:
    job_id = _submit(context, recipe=ENDLESS)
    later = utc_now() + timedelta(days=1)

    def reap() -> None:
        with context.sessions.begin() as session:
            repository.reap(session, now=later, settings=context.settings)

    _while_it_runs(context, job_id, reap)
    job = _read(context, job_id)
    assert (job.status, job.attempt, job.updated_at) == (JobStatus.QUEUED, 1, later)


def test_a_job_that_is_given_back_is_rung_again(context: Context) -> None:
    with context.sessions.begin() as session:
        job, lease = make_running_job(session, now=utc_now())
    heart = Heart(context.sessions, lease, heartbeat_seconds=1)
    _settle(job, context, heart, Stopped(gives_back=True), LOG)
    assert _read(context, job.id).status == JobStatus.QUEUED
    messages = context.settings.broker_directory / "messages"
    assert len(list(messages.glob("*.quantize.msg"))) == 1


def test_a_cancelled_job_is_not_given_back(context: Context) -> None:
    with context.sessions.begin() as session:
        job, lease = make_running_job(session, now=utc_now())
        repository.request_cancel(session, job.id, now=utc_now())
    heart = Heart(context.sessions, lease, heartbeat_seconds=1)
    _settle(job, context, heart, Stopped(gives_back=True), LOG)
    assert _read(context, job.id).status == JobStatus.CANCELLED


def test_a_result_outlives_a_database_that_is_away_for_a_moment(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "RETRY_SECONDS", 0.02)
    with context.sessions.begin() as session:
        job, lease = make_running_job(session, now=utc_now())
        session.execute(text("ALTER TABLE jobs RENAME TO jobs_away"))

    def bring_back() -> None:
        threading.Event().wait(0.2)
        with context.sessions.begin() as session:
            session.execute(text("ALTER TABLE jobs_away RENAME TO jobs"))

    thread = threading.Thread(target=bring_back)
    thread.start()
    heart = Heart(context.sessions, lease, heartbeat_seconds=1)
    _settle(job, context, heart, Succeeded({"x": 1}, {}), LOG)
    thread.join()
    assert _read(context, job.id).result == {"x": 1}
    assert lease_of(job) == lease


def test_memory_that_torch_or_python_cannot_give_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(2**55, dtype=torch.uint8)
    with pytest.raises(MemoryError) as of_python:
        bytearray(2**60)
    assert _is_out_of_memory(of_torch.value)
    assert _is_out_of_memory(of_python.value)
    assert not _is_out_of_memory(RuntimeError("another"))


@pytest.mark.parametrize("kind", JobKind)
def test_a_request_of_another_version_fails_instead_of_looping(
    context: Context, kind: JobKind
) -> None:
    job_id = _submit(context, kind=kind, request={"target": 3})
    with context.sessions.begin() as session:
        repository.get(session, job_id).recipe = {}
    run_job(job_id, context)
    job = _read(context, job_id)
    assert job.status == JobStatus.FAILED
    assert job.error is not None
    assert job.error["code"] == "internal"

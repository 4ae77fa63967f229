import os
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from jobs import repository
from jobs.failures import failure
from jobs.models import Job
from jobs.settings import Settings
from jobs.status import JobStatus
from tcaq_core.journal import Entry
from tcaq_core.recipe import (
    DAQ,
    PAR,
    CalibrationSpec,
    FitRanges,
    Method,
    Recipe,
    resolve,
)
from tests.factories import make_job
from worker.clock import utc_now
from worker.context import Context
from worker.journals import AttemptJournal
from worker.outcome import Failed, Outcome, Stopped, Succeeded
from worker.run import run_job
from worker.sweep import sweep


def _recipe(iterations: int = 2) -> Recipe:
    ranges = FitRanges(weight="min_max", activation="min_max")
    par = PAR(rounds=0, iterations=iterations, batch_size=2, num_inputs=4)
    return resolve(
        Method(passes=(ranges, DAQ(), par)),
        weight_bits=4,
        activation_bits=8,
        calibration=CalibrationSpec(num_samples=2, num_steps=2),
    )


def _submit(context: Context, recipe: Recipe) -> UUID:
    with context.sessions.begin() as session:
        return make_job(session, recipe=recipe, now=utc_now()).id


def _run(context: Context, job_id: UUID) -> Job:
    run_job(job_id, context)
    with context.sessions() as session:
        return repository.get(session, job_id)


def _with(context: Context, **settings: object) -> Context:
    return replace(context, settings=context.settings.model_copy(update=settings))


def _sha256(job: Job) -> str:
    assert job.status == JobStatus.SUCCEEDED, job.error
    assert job.result is not None
    return str(job.result["checkpoint"]["sha256"])


def _journals(context: Context) -> list[Path]:
    return list(context.settings.journals.glob("*"))


def _once_a_block_is_done(context: Context, act: Callable[[], None]) -> None:
    def wait_and_act() -> None:
        while not list(context.settings.journals.glob("*/par/round-0/*.safetensors")):
            threading.Event().wait(0.01)
        act()

    threading.Thread(target=wait_and_act).start()


def test_a_job_that_lost_its_worker_goes_on_and_ends_with_the_same_bytes(
    context: Context,
) -> None:
    undisturbed = _run(context, _submit(context, _recipe(iterations=40)))
    assert undisturbed.resumed_from is None
    assert _journals(context) == []
    job_id = _submit(context, _recipe(iterations=40))
    now = utc_now() + timedelta(days=1)

    def reap() -> None:
        with context.sessions.begin() as session:
            repository.reap(session, now=now, settings=context.settings)

    _once_a_block_is_done(context, reap)
    lost = _run(context, job_id)
    assert (lost.status, lost.attempt) == (JobStatus.QUEUED, 1)
    assert len(_journals(context)) == 1
    job = _run(context, job_id)
    assert _sha256(job) == _sha256(undisturbed)
    assert job.attempt == 2
    assert (job.resumed_from or "").startswith("par/round-0/")
    assert 0 < job.resumed_fraction < 1
    assert [step["name"] for step in job.steps] == [
        step["name"] for step in undisturbed.steps
    ]
    assert _journals(context) == []


def test_a_cancelled_job_leaves_no_journal(context: Context) -> None:
    job_id = _submit(context, _recipe(iterations=2000))

    def cancel() -> None:
        with context.sessions.begin() as session:
            repository.request_cancel(session, job_id, now=utc_now())

    _once_a_block_is_done(context, cancel)
    assert _run(context, job_id).status == JobStatus.CANCELLED
    assert _journals(context) == []


def test_a_job_without_memory_fails_cleanly_and_goes_on_when_submitted_again(
    context: Context,
) -> None:
    undisturbed = _sha256(_run(context, _submit(context, _recipe())))
    small = _with(context, memory_budget_bytes=20_000)
    failed = _run(small, _submit(small, _recipe()))
    assert failed.status == JobStatus.FAILED
    assert failed.error is not None
    assert failed.error["code"] == "out_of_memory"
    assert failed.error["retryable"] is True
    assert "of block down_blocks.0.resnets.0 take" in failed.error["detail"]
    assert "TCAQ_MEMORY_BUDGET_BYTES=" in failed.error["hint"]
    assert list(context.scratch.iterdir()) == []
    assert len(_journals(context)) == 1
    again = _run(context, _submit(context, _recipe()))
    assert _sha256(again) == undisturbed
    assert (again.attempt, again.resumed_from) == (1, "par/round-0/conv_in")
    assert _journals(context) == []


def test_a_damaged_journal_is_refused_once_and_then_forgotten(context: Context) -> None:
    small = _with(context, memory_budget_bytes=20_000)
    _run(small, _submit(small, _recipe()))
    (folder,) = _journals(context)
    entry = folder / "daq.safetensors"
    entry.write_bytes(entry.read_bytes()[:-1])
    refused = _run(context, _submit(context, _recipe()))
    assert refused.error is not None
    assert refused.error["code"] == "resume_refused"
    assert "daq" in refused.error["detail"]
    assert _journals(context) == []
    assert _run(context, _submit(context, _recipe())).resumed_from is None


@pytest.mark.parametrize(
    ("outcome", "kept"),
    [
        (Succeeded({}, {}), False),
        (Failed(failure("out_of_memory", "x", hint="y", retryable=True)), True),
        (Failed(failure("diverged", "x", hint="y", retryable=False)), False),
        (Failed(failure("resume_refused", "x", hint="y", retryable=True)), False),
        (Stopped(gives_back=True), True),
        (Stopped(gives_back=False), False),
    ],
)
def test_what_could_be_gone_on_from_is_kept(
    tmp_path: Path, outcome: Outcome, *, kept: bool
) -> None:
    settings = Settings(data_directory=tmp_path, database_url=None)
    attempt = AttemptJournal(settings, lambda _name: None)
    attempt.close(outcome)  # nothing was opened: nothing to delete
    attempt.open("f" * 64).write("daq", Entry({}))
    attempt.close(outcome)
    assert (settings.journals / ("f" * 64)).exists() == kept


def test_old_journals_are_swept_and_others_stay(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path, database_url=None)
    now = utc_now()
    assert sweep(settings, now=now) == []
    for name in ("old", "young"):
        journal = AttemptJournal(settings, lambda _name: None).open(name)
        journal.write("par/round-0/conv_in", Entry({}))
    long_ago = (now - timedelta(days=settings.journal_days + 1)).timestamp()
    for path in [settings.journals / "old", *(settings.journals / "old").rglob("*")]:
        os.utime(path, (long_ago, long_ago))
    # One entry written lately keeps all of them.
    os.utime(settings.journals / "young", (long_ago, long_ago))
    assert sweep(settings, now=now) == ["old"]
    assert [path.name for path in settings.journals.iterdir()] == ["young"]

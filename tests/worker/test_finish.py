import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pytest
import torch

from jobs import repository
from jobs.models import Job
from jobs.status import JobStatus
from tcaq_core import diffusion
from tests.factories import make_job
from tests.worker.conftest import Finished
from worker import finish
from worker.clock import utc_now
from worker.context import Context
from worker.run import run_job


@pytest.fixture
def context(finished: Finished) -> Context:
    made = finished.context
    untimed = made.settings.model_copy(update={"benchmark_seconds": 0})
    return replace(made, settings=untimed)


def _submit(context: Context, *exports: str) -> UUID:
    request = {"exports": ["safetensors", *exports]}
    with context.sessions.begin() as session:
        return make_job(session, request=request, now=utc_now()).id


def _run(context: Context, job_id: UUID) -> Job:
    run_job(job_id, context)
    with context.sessions() as session:
        return repository.get(session, job_id)


def _raise(error: BaseException) -> Callable[..., None]:
    def call(*_: object, **__: object) -> None:
        raise error

    return call


def _is_the_same_checkpoint(job: Job, finished: Finished) -> None:
    assert job.status == JobStatus.SUCCEEDED, job.error
    assert job.result is not None
    assert finished.job.result is not None
    assert job.result["checkpoint"] == finished.job.result["checkpoint"]


@pytest.mark.parametrize(
    "error", [OSError("/secret is full"), torch.OutOfMemoryError("no room")]
)
def test_a_benchmark_that_fails_costs_no_checkpoint(
    context: Context,
    finished: Finished,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    monkeypatch.setattr(finish, "measure_checkpoint", _raise(error))
    job = _run(context, _submit(context))
    _is_the_same_checkpoint(job, finished)
    assert job.result is not None
    assert job.result["benchmark_error"] == type(error).__name__
    assert job.result["benchmark"] is job.result["execution"] is None


def test_a_model_that_went_away_meanwhile_costs_no_checkpoint(
    context: Context, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(folder: Path, *, device: torch.device) -> diffusion.Pipeline:
        shutil.rmtree(folder)
        return diffusion.load_pipeline(folder, device=device)

    late = SimpleNamespace(load_pipeline=too_late)
    monkeypatch.setattr(finish, "diffusion", late)
    job = _run(context, _submit(context))
    _is_the_same_checkpoint(job, finished)
    assert job.result is not None
    assert "tiny" in job.result["benchmark_error"]


@pytest.mark.parametrize(
    ("stage", "exports"), [("measure_checkpoint", []), ("export_onnx", ["onnx"])]
)
def test_a_job_killed_after_its_checkpoint_goes_on_to_the_same_bytes(
    context: Context,
    finished: Finished,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    exports: list[str],
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(finish, stage, _raise(SystemExit(0)))
        job_id = _submit(context, *exports)
        with pytest.raises(SystemExit):
            run_job(job_id, context)
    job = _run(context, job_id)
    _is_the_same_checkpoint(job, finished)
    assert job.resumed_from == "fit_ranges"


def test_an_export_that_breaks_leaves_what_was_journalled(
    context: Context, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish, "export_onnx", _raise(OSError("/secret is full")))
    job = _run(context, _submit(context, "onnx"))
    assert job.error is not None
    assert job.error["code"] == "export_failed"
    assert "OSError" in job.error["detail"]
    assert "secret" not in job.error["detail"]
    again = _run(context, _submit(context))
    _is_the_same_checkpoint(again, finished)
    assert again.resumed_from == "fit_ranges"

import sys
from dataclasses import replace
from uuid import UUID

import onnx
import pytest

from jobs import repository
from jobs.models import Job
from jobs.status import JobStatus
from tcaq_core import integrations
from tcaq_core.errors import ExportFailed
from tcaq_core.recipe import (
    CalibrationSpec,
    FitRanges,
    Method,
    Modulate,
    Recipe,
    resolve,
)
from tests.factories import make_job, make_recipe
from tests.worker.conftest import Finished
from worker.clock import utc_now
from worker.context import Context
from worker.exports import EXPORTER, QuantizeRequest, check_exporters
from worker.run import run_job

BOTH = {"exports": ["safetensors", "onnx"]}


@pytest.fixture
def context(finished: Finished) -> Context:
    made = finished.context
    untimed = made.settings.model_copy(update={"benchmark_seconds": 0})
    return replace(made, settings=untimed)


def _end(context: Context, recipe: Recipe, request: dict[str, list[str]]) -> Job:
    with context.sessions.begin() as session:
        job_id: UUID = make_job(
            session, recipe=recipe, request=request, now=utc_now()
        ).id
    run_job(job_id, context)
    with context.sessions() as session:
        return repository.get(session, job_id)


def test_a_job_that_asks_for_onnx_stores_a_file_that_was_run_and_compared(
    context: Context, finished: Finished
) -> None:
    job = _end(context, make_recipe(), BOTH)
    assert job.status == JobStatus.SUCCEEDED, job.error
    assert [step["name"] for step in job.steps][-2:] == ["benchmark", "export"]
    assert job.result is not None
    made = job.result["exports"]["onnx"]
    path = context.store.path(made["sha256"])
    assert path is not None
    assert path.stat().st_size == made["size_bytes"]
    onnx.checker.check_model(onnx.load_from_string(path.read_bytes()))
    assert 0 <= made["checked"]["plain"]["relative_error"] < 0.05
    with context.sessions() as session:
        names = repository.job_artifacts(session, job.id)
    assert names["model.onnx"].sha256 == made["sha256"]
    # Another format changes nothing about the checkpoint.
    assert finished.job.result is not None
    assert job.result["checkpoint"] == finished.job.result["checkpoint"]
    assert finished.job.result["exports"] == {}
    assert list(context.scratch.iterdir()) == []


def test_an_export_that_fails_leaves_the_work_to_the_same_job_without_it(
    context: Context,
) -> None:
    ranges = FitRanges(weight="min_max", activation="min_max")
    recipe = resolve(
        Method(passes=(ranges, Modulate(num_samples=2))),
        weight_bits=8,
        activation_bits=8,
        calibration=CalibrationSpec(num_samples=2, num_steps=3),
    )
    job = _end(context, recipe, BOTH)
    assert job.status == JobStatus.FAILED
    assert job.error is not None
    assert job.error["code"] == "export_failed"
    assert "ONNX" in job.error["detail"]
    assert "without" in job.error["hint"]
    again = _end(context, recipe, {})
    assert again.status == JobStatus.SUCCEEDED, again.error
    assert again.resumed_from == "modulate"


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_noticed_before_the_work(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    for name in [name for name in sys.modules if name.startswith(EXPORTER)]:
        monkeypatch.delitem(sys.modules, name)
        # `from package import module` reads the package's attribute.
        monkeypatch.delattr(integrations, name.rpartition(".")[2], raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    check_exporters(QuantizeRequest())
    with pytest.raises(ExportFailed, match=f"{package} is not installed"):
        check_exporters(QuantizeRequest(exports=("safetensors", "onnx")))

import json
import weakref
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from jobs import repository
from jobs.models import Job
from jobs.status import JobStatus
from tcaq_core import checkpoint
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.diffusion import Pipeline
from tcaq_core.errors import ExportFailed, Interrupted
from tcaq_core.evaluation.speed import Benchmark
from tcaq_core.report import LayerReport
from tcaq_core.runtime.integer import compile_integer
from tests.factories import make_job, make_recipe
from tests.worker.conftest import Finished
from worker import quantize
from worker.archive import unpack
from worker.clock import utc_now
from worker.context import Context
from worker.quantize import _check_reload, _environment_without_secrets
from worker.run import run_job


def _run(
    context: Context, *, weight_bits: int = 4, request: dict[str, Any] | None = None
) -> Job:
    with context.sessions.begin() as session:
        recipe = make_recipe(weight_bits=weight_bits)
        job_id = make_job(session, recipe=recipe, request=request, now=utc_now()).id
    run_job(job_id, context)
    with context.sessions() as session:
        job = repository.get(session, job_id)
    assert job.status == JobStatus.SUCCEEDED, job.error
    return job


def _unpacked(context: Context, job: Job, folder: Path) -> Path:
    assert job.result is not None
    with context.store.open(job.result["checkpoint"]["sha256"]) as stored:
        unpack(stored, folder)
    return folder


def _report(context: Context, job: Job) -> dict[str, Any]:
    assert job.result is not None
    with context.store.open(job.result["report"]["sha256"]) as stored:
        document: dict[str, Any] = json.load(stored)
    return document


def _timeless(report: dict[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in report.items() if name != "benchmark"}


def test_the_picture_of_the_report_is_stored_as_a_png(finished: Finished) -> None:
    result = finished.job.result
    assert result is not None
    picture = result["report"]["picture"]
    with finished.context.store.open(picture["sha256"]) as stored:
        assert Image.open(stored).format == "PNG"
    with finished.context.sessions() as session:
        made = repository.job_artifacts(session, finished.job.id)
    assert {name: item.media_type for name, item in made.items()} == {
        "checkpoint": "application/x-tar",
        "report": "application/json",
        "report.png": "image/png",
    }


def test_the_result_says_what_was_made_and_what_was_checked(
    finished: Finished,
) -> None:
    context, job = finished.context, finished.job
    result = job.result
    assert result is not None
    made = result["checkpoint"]
    path = context.store.path(made["sha256"])
    assert path is not None
    assert made["size_bytes"] == path.stat().st_size
    assert result["compression_ratio"] == pytest.approx(
        result["float32_bytes"] / made["denoiser_bytes"]
    )
    assert result["verified"]["bit_equal"] is True
    assert result["verified"]["max_abs_diff"] == 0.0
    document = _report(context, job)
    assert {"fit_ranges", "execution", "benchmark"} <= set(document)
    LayerReport.model_validate(document["layers"])
    assert job.model_info is not None
    assert job.model_info["reference"] == "tiny"
    assert job.environment is not None
    assert job.environment["torch"] == torch.__version__


def test_the_result_says_what_the_checkpoint_really_computes_with(
    finished: Finished, folder: Path
) -> None:
    result = finished.job.result
    assert result is not None
    loaded = checkpoint.load(folder, device=torch.device("cpu"))
    execution = compile_integer(loaded.denoiser)
    named = {"kind": result["execution"], **result["execution_details"]}
    assert named == asdict(execution)
    is_all_integer = execution.kind == "integer" and not execution.simulated_layers
    assert result["simulated_ops"] is not is_all_integer
    error = _report(finished.context, finished.job)["execution"]["relative_error"]
    assert 0 <= error < 0.1


def test_a_job_times_its_checkpoint_against_its_model(finished: Finished) -> None:
    result = finished.job.result
    assert result is not None
    document = _report(finished.context, finished.job)["benchmark"]
    benchmark = Benchmark.model_validate(document)
    assert set(benchmark.engines) == {"float32", "bfloat16", result["execution"]}
    for engine in benchmark.engines.values():
        assert 0 < engine.p50_seconds_per_image <= engine.p95_seconds_per_image
        assert engine.peak_memory_bytes > 0
    short = result["benchmark"]
    assert short["speedup"] == benchmark.speedup
    seconds = short["seconds_per_image"]
    assert benchmark.speedup["over_float32"] == pytest.approx(
        seconds["float32"] / seconds[result["execution"]]
    )


def test_a_worker_without_time_for_it_still_says_what_executes(
    finished: Finished,
) -> None:
    settings = finished.context.settings.model_copy(update={"benchmark_seconds": 0})
    job = _run(replace(finished.context, settings=settings))
    assert job.result is not None
    assert finished.job.result is not None
    assert job.result["benchmark"] is None
    assert job.result["execution"] == finished.job.result["execution"]
    assert _report(finished.context, job)["benchmark"] is None


def test_the_quantized_model_is_gone_before_others_are_loaded(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    probe = checkpoint.probe

    def watch(pipeline: Pipeline, denoiser: QuantizedDenoiser) -> str:
        seen.append(weakref.ref(pipeline.denoiser))
        return probe(pipeline, denoiser)

    def is_gone(*_: object) -> None:
        assert [reference() for reference in seen] == [None]

    monkeypatch.setattr(checkpoint, "probe", watch)
    monkeypatch.setattr(quantize, "_check_reload", is_gone)
    settings = finished.context.settings.model_copy(update={"benchmark_seconds": 0})
    _run(replace(finished.context, settings=settings))


def test_the_stored_checkpoint_gives_the_outputs_that_were_verified(
    finished: Finished, folder: Path
) -> None:
    job = finished.job
    loaded = checkpoint.load(folder, device=torch.device("cpu"))
    assert job.result is not None
    found = checkpoint.probe(loaded.pipeline, loaded.denoiser)
    assert found == job.result["verified"]["probe_sha256"]
    assert loaded.manifest.model == job.model_info


def test_the_same_job_twice_gives_the_same_bytes(finished: Finished) -> None:
    again = _run(finished.context)
    assert again.result is not None
    assert finished.job.result is not None
    # Times differ: they are in the report, and nowhere in the checkpoint.
    for name in ("checkpoint", "verified", "execution_details"):
        assert again.result[name] == finished.job.result[name]
    assert _timeless(_report(finished.context, again)) == _timeless(
        _report(finished.context, finished.job)
    )


def test_other_bits_give_other_bytes(finished: Finished) -> None:
    four = finished.job.result
    eight = _run(finished.context, weight_bits=8).result
    assert four is not None
    assert eight is not None
    assert four["checkpoint"]["sha256"] != eight["checkpoint"]["sha256"]
    assert four["checkpoint"]["denoiser_bytes"] < eight["checkpoint"]["denoiser_bytes"]


def test_nothing_is_left_in_the_scratch_folder(finished: Finished) -> None:
    assert list(finished.context.scratch.iterdir()) == []


def _ignore(_stage: str, _done: int, _total: int) -> None:
    pass


@pytest.fixture
def context(finished: Finished) -> Context:
    return finished.context


@pytest.fixture
def folder(finished: Finished, tmp_path: Path) -> Path:
    return _unpacked(finished.context, finished.job, tmp_path / "checkpoint")


def test_a_checkpoint_that_gives_other_outputs_is_not_delivered(
    context: Context, folder: Path
) -> None:
    with pytest.raises(ExportFailed, match="does not give the outputs"):
        _check_reload(folder, "0" * 64, context, _ignore)


def test_a_checkpoint_that_cannot_be_read_is_not_delivered(
    context: Context, folder: Path
) -> None:
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(ExportFailed, match="could not read"):
        _check_reload(folder, "0" * 64, context, _ignore)


def test_the_check_is_interrupted_when_the_job_must_stop(
    context: Context, folder: Path
) -> None:
    def interrupt(_stage: str, _done: int, _total: int) -> None:
        raise Interrupted("stop", hint="none")

    with pytest.raises(Interrupted):
        _check_reload(folder, "0" * 64, context, interrupt)


def test_the_checking_process_gets_no_passwords(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TCAQ_DATABASE_URL", "postgresql://me:hunter2@db/tcaq")
    monkeypatch.setenv("PATH", "/usr/bin")
    environment = _environment_without_secrets()
    assert environment["PATH"] == "/usr/bin"
    assert "hunter2" not in str(environment)

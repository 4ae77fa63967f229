"""What follows a verified checkpoint: how it executes here, how fast, other formats."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import torch

from jobs.artifacts import StoredArtifact
from jobs.errors import JobError
from jobs.models import Job
from tcaq_core import checkpoint, diffusion
from tcaq_core.errors import ExportFailed, Interrupted, TCAQError
from tcaq_core.evaluation.speed import Benchmark, Measured, measure_checkpoint
from worker.context import Context
from worker.execution import described, has_simulated_ops
from worker.exports import ONNX, QuantizeRequest, export_onnx
from worker.memory import return_memory
from worker.outcome import Progress

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Finished:
    """What is added to a job's result, its report, and its artifacts."""

    result: dict[str, Any]
    report: dict[str, Any]
    artifacts: dict[str, StoredArtifact]


def finish(
    folder: Path, model: Path, job: Job, context: Context, progress: Progress
) -> Finished:
    """Time the checkpoint in `folder` against its model; write the other formats.

    Without its times a checkpoint is as good: a benchmark that fails is reported, not
    raised.

    Raises:
        ExportFailed: another format cannot be written.
        TCAQError: the export's other refusals.
        Interrupted: the job must stop.
    """
    progress("benchmark", 0, 1)
    finished = _benchmark(folder, model, job, context, progress)
    # The next step loads the checkpoint again.
    return_memory(context.device)
    progress("benchmark", 1, 1)
    exports: dict[str, Any] = {}
    if "onnx" in QuantizeRequest.model_validate(job.request).exports:
        stored, checked = _export_onnx(folder, job, context, progress)
        exports["onnx"] = {"sha256": stored.sha256, **checked}
        finished.artifacts[ONNX] = stored
    finished.result["exports"] = finished.report["exports"] = exports
    return finished


def _benchmark(
    folder: Path, model: Path, job: Job, context: Context, progress: Progress
) -> Finished:
    try:
        measured = measure_checkpoint(
            diffusion.load_pipeline(model, device=context.device),
            checkpoint.load(folder, device=context.device),
            seconds=context.settings.benchmark_seconds,
            tick=lambda done, total: progress("benchmark", done, total),
        )
    except Interrupted:
        raise
    except Exception as error:
        _logger.exception("the benchmark failed", job_id=str(job.id))
        return _unmeasured(error)
    return _measured(measured)


def _unmeasured(error: Exception) -> Finished:
    # Of an error that is not ours, the text may name paths and hosts.
    why = error.detail if isinstance(error, TCAQError) else type(error).__name__
    nothing = {"execution": None, "benchmark": None, "benchmark_error": why}
    result = {**nothing, "execution_details": None, "simulated_ops": None}
    return Finished(result=result, report=nothing, artifacts={})


def _measured(measured: Measured) -> Finished:
    execution = described(measured.execution)
    benchmark = measured.benchmark
    found = {**execution, "relative_error": measured.relative_error}
    return Finished(
        result={
            **execution,
            "simulated_ops": has_simulated_ops(measured.execution),
            "benchmark": None if benchmark is None else _short(benchmark),
            "benchmark_error": None,
        },
        report={
            "execution": found,
            "benchmark": None if benchmark is None else benchmark.model_dump(),
            "benchmark_error": None,
        },
        artifacts={},
    )


def _export_onnx(
    folder: Path, job: Job, context: Context, progress: Progress
) -> tuple[StoredArtifact, dict[str, Any]]:
    try:
        return export_onnx(folder, context, progress)
    except (TCAQError, JobError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        _logger.exception("the export failed", job_id=str(job.id))
        # Not "internal": that would throw away what the job has journalled.
        raise ExportFailed(
            f"An unexpected {type(error).__name__} stopped the ONNX export.",
            hint="Submit the job again without this export: it goes on from here.",
        ) from error


def _short(benchmark: Benchmark) -> dict[str, Any]:
    return {
        "batch_size": benchmark.batch_size,
        "seconds_per_image": {
            name: engine.p50_seconds_per_image
            for name, engine in benchmark.engines.items()
        },
        "peak_memory_bytes": {
            name: engine.peak_memory_bytes for name, engine in benchmark.engines.items()
        },
        "speedup": benchmark.speedup,
    }

"""What follows a verified checkpoint: how it executes here, how fast, other formats."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.artifacts import StoredArtifact
from tcaq_core import checkpoint, diffusion
from tcaq_core.evaluation.speed import Benchmark, measure_checkpoint
from worker.context import Context
from worker.execution import described, has_simulated_ops
from worker.exports import ONNX, QuantizeRequest, export_onnx
from worker.outcome import Progress


@dataclass(frozen=True)
class Finished:
    """What is added to a job's result, its report, and its artifacts."""

    result: dict[str, Any]
    report: dict[str, Any]
    artifacts: dict[str, StoredArtifact]


def finish(
    folder: Path,
    model: Path,
    request: QuantizeRequest,
    context: Context,
    progress: Progress,
) -> Finished:
    """Time the checkpoint in `folder` against its model; write the other formats.

    Raises:
        TCAQError: the science refuses.
        Interrupted: the job must stop.
    """
    finished = _benchmark(folder, model, context, progress)
    exports: dict[str, Any] = {}
    if "onnx" in request.exports:
        stored, checked = export_onnx(folder, context, progress)
        exports["onnx"] = {"sha256": stored.sha256, **checked}
        finished.artifacts[ONNX] = stored
    finished.result["exports"] = finished.report["exports"] = exports
    return finished


def _benchmark(
    folder: Path, model: Path, context: Context, progress: Progress
) -> Finished:
    progress("benchmark", 0, 1)
    measured = measure_checkpoint(
        diffusion.load_pipeline(model, device=context.device),
        checkpoint.load(folder, device=context.device),
        seconds=context.settings.benchmark_seconds,
        tick=lambda done, total: progress("benchmark", done, total),
    )
    progress("benchmark", 1, 1)
    execution = described(measured.execution)
    benchmark = measured.benchmark
    found = {**execution, "relative_error": measured.relative_error}
    return Finished(
        result={
            **execution,
            "simulated_ops": has_simulated_ops(measured.execution),
            "benchmark": None if benchmark is None else _short(benchmark),
        },
        report={
            "execution": found,
            "benchmark": None if benchmark is None else benchmark.model_dump(),
        },
        artifacts={},
    )


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

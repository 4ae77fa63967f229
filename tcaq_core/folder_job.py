"""A whole quantization without a server: a model folder in, a result folder out.

result/
├── checkpoint/   as `tcaq_core.checkpoint` writes it, verified in a fresh process
├── model.onnx    where it is asked for
├── report.json   what each pass did, layer by layer; how it executes here
└── report.png    layers x timestep groups
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import torch

from tcaq_core import checkpoint
from tcaq_core.diffusion import load_pipeline
from tcaq_core.environment import describe_environment, make_deterministic
from tcaq_core.evaluation.speed import Measured, measure_checkpoint
from tcaq_core.fresh_process import check_reload
from tcaq_core.manifest import Manifest
from tcaq_core.model_folder import inspect_model_folder
from tcaq_core.quantization import Progress, quantize
from tcaq_core.recipe import Recipe
from tcaq_core.report_files import report_files

CHECKPOINT: Final = "checkpoint"
REPORT: Final = "report.json"
PICTURE: Final = "report.png"
ONNX: Final = "model.onnx"


@dataclass
class Stopwatch:
    """Listens to progress and measures every stage's seconds."""

    tell: Progress
    seconds: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=perf_counter)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Count the time since the last call to the stage that it ended or was in."""
        now = perf_counter()
        running = next(reversed(self.seconds), stage)
        self.seconds[running] = self.seconds.get(running, 0.0) + now - self.began
        self.seconds.setdefault(stage, 0.0)
        self.began = now
        self.tell(stage, done, total)


@dataclass(frozen=True)
class FolderResult:
    """What was made, and how long each stage took."""

    manifest: Manifest
    report: dict[str, Any]
    seconds: dict[str, float]
    measured: Measured
    """How the checkpoint executes on this machine."""


def quantize_folder(
    model: Path,
    out: Path,
    recipe: Recipe,
    *,
    device: torch.device,
    progress: Progress,
    benchmark_seconds: float = 0,
    has_onnx: bool = False,
) -> FolderResult:
    """Quantize a diffusers folder into `out`, which appears complete or not at all.

    The checkpoint is timed against its model for about `benchmark_seconds`.

    Raises:
        FileExistsError: `out` is there already, and not an empty folder.
        TCAQError: the science refuses, or the checkpoint does not reproduce the model.
    """
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists already.")
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        job = _FolderJob(part, model, recipe, device, Stopwatch(progress))
        result = job.run(benchmark_seconds=benchmark_seconds, has_onnx=has_onnx)
        # mkdtemp's 0700 would hide it from everyone else.
        part.chmod(0o755)
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return result


@dataclass(frozen=True)
class _FolderJob:
    """One quantization into a folder that nobody else knows yet."""

    folder: Path
    model: Path
    recipe: Recipe
    device: torch.device
    progress: Stopwatch

    def run(self, *, benchmark_seconds: float, has_onnx: bool) -> FolderResult:
        manifest, report = self._quantize()
        measured = self._measure(benchmark_seconds)
        report["execution"] = asdict(measured.execution)
        report["execution"]["relative_error"] = measured.relative_error
        timed = measured.benchmark
        report["benchmark"] = None if timed is None else timed.model_dump()
        if has_onnx:
            report["exports"] = {"onnx": self._export_onnx()}
        files = report_files(report, self.recipe, model=self.model.resolve().name)
        (self.folder / REPORT).write_bytes(files.document)
        (self.folder / PICTURE).write_bytes(files.picture)
        seconds = dict(self.progress.seconds)
        return FolderResult(manifest, report, seconds, measured)

    def _quantize(self) -> tuple[Manifest, dict[str, Any]]:
        progress = self.progress
        progress("fetch", 0, 1)
        make_deterministic()
        environment = describe_environment(self.device)
        pipeline = load_pipeline(self.model, device=self.device)
        found = inspect_model_folder(self.model)
        info = {
            "reference": self.model.resolve().name,
            "revision": None,
            "weights_sha256": found.weights_sha256(),
            "num_parameters": found.num_parameters,
        }
        progress("fetch", 1, 1)
        quantized = quantize(pipeline, self.recipe, progress=progress)
        progress("save", 0, 1)
        manifest = checkpoint.save(
            self.folder / CHECKPOINT,
            pipeline,
            quantized.denoiser,
            self.recipe,
            model=info,
            environment=dict(environment),
        )
        progress("save", 1, 1)
        self._verify(checkpoint.probe(pipeline, quantized.denoiser))
        return manifest, dict(quantized.report)

    def _verify(self, probe: str) -> None:
        tick: Callable[[], None] = partial(self.progress, "verify", 0, 1)
        tick()
        check_reload(
            self.folder / CHECKPOINT,
            probe,
            device=self.device,
            environment=os.environ,
            tick=tick,
        )
        self.progress("verify", 1, 1)

    def _measure(self, seconds: float) -> Measured:
        self.progress("benchmark", 0, 1)
        measured = measure_checkpoint(
            load_pipeline(self.model, device=self.device),
            checkpoint.load(self.folder / CHECKPOINT, device=self.device),
            seconds=seconds,
            tick=partial(self.progress, "benchmark"),
        )
        self.progress("benchmark", 1, 1)
        return measured

    def _export_onnx(self) -> dict[str, Any]:
        # Slow to import, and not needed otherwise.
        from tcaq_core.integrations.onnx import export_onnx  # noqa: PLC0415

        self.progress("export", 0, 1)
        loaded = checkpoint.load(self.folder / CHECKPOINT, device=self.device)
        exported = export_onnx(loaded.denoiser, self.folder / ONNX)
        self.progress("export", 1, 1)
        return exported.as_dict()

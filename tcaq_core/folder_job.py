"""A whole quantization without a server: a model folder in, a result folder out.

result/
├── checkpoint/   as `tcaq_core.checkpoint` writes it, verified in a fresh process
├── report.json   what each pass did, layer by layer
└── report.png    layers x timestep groups
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import torch

from tcaq_core import checkpoint
from tcaq_core.diffusion import load_pipeline
from tcaq_core.environment import describe_environment, make_deterministic
from tcaq_core.fresh_process import check_reload
from tcaq_core.manifest import Manifest
from tcaq_core.model_folder import inspect_model_folder
from tcaq_core.quantization import Progress, quantize
from tcaq_core.recipe import Recipe
from tcaq_core.report_files import report_files

CHECKPOINT: Final = "checkpoint"
REPORT: Final = "report.json"
PICTURE: Final = "report.png"


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


def quantize_folder(
    model: Path,
    out: Path,
    recipe: Recipe,
    *,
    device: torch.device,
    progress: Progress,
) -> FolderResult:
    """Quantize a diffusers folder into `out`, which appears complete or not at all.

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
        result = _fill(part, model, recipe, device, Stopwatch(progress))
        # mkdtemp's 0700 would hide it from everyone else.
        part.chmod(0o755)
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return result


def _fill(
    folder: Path,
    model: Path,
    recipe: Recipe,
    device: torch.device,
    progress: Stopwatch,
) -> FolderResult:
    progress("fetch", 0, 1)
    make_deterministic()
    environment = describe_environment(device)
    pipeline = load_pipeline(model, device=device)
    found = inspect_model_folder(model)
    name = model.resolve().name
    info = {
        "reference": name,
        "revision": None,
        "weights_sha256": found.weights_sha256(),
        "num_parameters": found.num_parameters,
    }
    progress("fetch", 1, 1)
    quantized = quantize(pipeline, recipe, progress=progress)
    progress("save", 0, 1)
    manifest = checkpoint.save(
        folder / CHECKPOINT,
        pipeline,
        quantized.denoiser,
        recipe,
        model=info,
        environment=dict(environment),
    )
    files = report_files(quantized.report, recipe, model=name)
    (folder / REPORT).write_bytes(files.document)
    (folder / PICTURE).write_bytes(files.picture)
    progress("save", 1, 1)
    tick: Callable[[], None] = partial(progress, "verify", 0, 1)
    tick()
    check_reload(
        folder / CHECKPOINT,
        checkpoint.probe(pipeline, quantized.denoiser),
        device=device,
        environment=os.environ,
        tick=tick,
    )
    progress("verify", 1, 1)
    return FolderResult(manifest, quantized.report, dict(progress.seconds))

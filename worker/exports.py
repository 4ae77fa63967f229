"""A verified checkpoint in the other formats that its job asks for."""

import importlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from jobs.artifacts import StoredArtifact
from tcaq_core import checkpoint
from tcaq_core.errors import ExportFailed, ModelUnsupported
from tcaq_core.evaluation.plan import EvaluationPlan
from tcaq_core.evaluation.spec import Guards
from worker.context import Context
from worker.outcome import Progress

ONNX = "model.onnx"
# ONNX files have no registered media type.
MEDIA_TYPE = "application/octet-stream"
# Slow to import, and not needed otherwise.
EXPORTER = "tcaq_core.integrations.onnx"
# torch imports the second one as late as it writes a file.
NEEDED = (EXPORTER, "onnxscript")


class QuantizeRequest(BaseModel, frozen=True):
    """The part of a job's stored request that its recipe does not hold."""

    exports: tuple[Literal["safetensors", "onnx"], ...] = ("safetensors",)
    plan: EvaluationPlan | None = None
    """None: the checkpoint is not scored."""
    guards: Guards | None = None


def check_exporters(request: QuantizeRequest) -> None:
    """Return if this worker can write every format: asked before hours of work.

    Raises:
        ExportFailed: a package that a format needs is not installed.
    """
    if "onnx" not in request.exports:
        return
    try:
        for name in NEEDED:
            importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ExportFailed(
            f"This worker cannot write ONNX: {error.name} is not installed.",
            hint="Submit the job without this export, or install tcaq[onnx] there.",
        ) from error


def export_onnx(
    folder: Path, context: Context, progress: Progress
) -> tuple[StoredArtifact, dict[str, Any]]:
    """Store the checkpoint in `folder` as ONNX; return what was checked of it, too.

    Raises:
        ExportFailed: ONNX cannot express it, or computes something else.
        Interrupted: the job must stop.
    """
    from tcaq_core.integrations import onnx  # noqa: PLC0415 - see EXPORTER

    progress("export", 0, 1)
    loaded = checkpoint.load(folder, device=context.device)
    path = folder.parent / ONNX
    try:
        report = onnx.export_onnx(loaded.denoiser, path)
    except ModelUnsupported as error:
        raise ExportFailed(
            f"This checkpoint cannot be written in ONNX. {error.detail}",
            hint="Submit the job again without this export: it goes on from here.",
        ) from error
    stored = context.store.put(path, media_type=MEDIA_TYPE)
    progress("export", 1, 1)
    return stored, report.as_dict()

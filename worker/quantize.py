"""The work of a quantization: model in, checked checkpoint out."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jobs.artifacts import StoredArtifact
from jobs.models import Job
from jobs.settings import Settings
from tcaq_core import checkpoint, diffusion, quantization
from tcaq_core.calibration import CalibrationSet
from tcaq_core.environment import describe_environment
from tcaq_core.fingerprint import fingerprint_of
from tcaq_core.fresh_process import check_reload
from tcaq_core.manifest import Manifest
from tcaq_core.recipe import Recipe
from tcaq_core.report_files import report_files
from tcaq_core.workspace import Workspace
from worker import archive
from worker.context import Context
from worker.description import describe
from worker.exports import QuantizeRequest, check_exporters
from worker.finish import finish
from worker.journals import AttemptJournal
from worker.memory import return_memory
from worker.models import fetch_model
from worker.outcome import Progress


@dataclass(frozen=True)
class Quantized:
    """A checked checkpoint: its part of a job's result, and what was stored."""

    result: dict[str, Any]
    artifacts: dict[str, StoredArtifact]
    layers: Mapping[str, Any] | None
    """The layer report; None: nothing was quantized."""

    @property
    def checkpoint(self) -> str:
        """The checkpoint's SHA-256."""
        return self.artifacts["checkpoint"].sha256


def quantize_once(
    job: Job,
    recipe: Recipe,
    context: Context,
    progress: Progress,
    attempt: AttemptJournal,
    *,
    data: CalibrationSet | None = None,
) -> Quantized:
    """Fetch, calibrate, run the passes, save, prove that it reloads, benchmark.

    What an earlier attempt has finished is not done again. `data` is a calibration
    that several recipes share.

    Raises:
        TCAQError: the science refuses, or the checkpoint does not reproduce the model.
        LeaseLost: the job is no longer this worker's.
    """
    progress("fetch", 0, 1)
    check_exporters(QuantizeRequest.model_validate(job.request))
    model = fetch_model(job.model, context.settings)
    environment = describe_environment(context.device)
    describe(job, context, model.info)
    pipeline = diffusion.load_pipeline(model.folder, device=context.device)
    progress("fetch", 1, 1)
    fingerprint = fingerprint_of(
        weights_sha256=str(model.info["weights_sha256"]),
        recipe_digest=recipe.digest(),
        environment=environment,
        files=pipeline.files,
    )
    quantized = quantization.quantize(
        pipeline,
        recipe,
        progress=progress,
        journal=attempt.open(fingerprint),
        workspace=Workspace(
            context.settings.memory_budget_bytes, scratch=context.scratch
        ),
        data=data,
    )
    with TemporaryDirectory(prefix="quantize-", dir=context.scratch) as scratch:
        folder, report = Path(scratch) / "checkpoint", quantized.report
        progress("save", 0, 1)
        manifest = checkpoint.save(
            folder,
            pipeline,
            quantized.denoiser,
            recipe,
            model=model.info,
            environment=environment,
        )
        progress("save", 1, 1)
        progress("verify", 0, 1)
        probe = checkpoint.probe(pipeline, quantized.denoiser)
        # What comes now loads models of its own.
        del pipeline, quantized
        return_memory(context.device)
        made = {"checkpoint": _store_verified(folder, probe, context, progress)}
        more = finish(folder, model.folder, job, context, progress)
    made |= more.artifacts
    made |= _store_report(context, job, recipe, report | more.report)
    result = _result(made, manifest, probe) | more.result
    return Quantized(result, made, report.get("layers"))


def _store_verified(
    folder: Path, probe: str, context: Context, progress: Progress
) -> StoredArtifact:
    _check_reload(folder, probe, context, progress)
    packed = folder.parent / "checkpoint.tar"
    archive.pack(folder, packed)
    stored = context.store.put(packed, media_type=archive.MEDIA_TYPE)
    progress("verify", 1, 1)
    return stored


def _check_reload(
    folder: Path, probe: str, context: Context, progress: Progress
) -> None:
    check_reload(
        folder,
        probe,
        device=context.device,
        environment=_environment_without_secrets(),
        tick=partial(progress, "verify", 0, 1),
    )


def _environment_without_secrets() -> dict[str, str]:
    # The URLs of database and broker hold passwords; the check needs neither.
    prefix = str(Settings.model_config["env_prefix"])
    return {k: v for k, v in os.environ.items() if not k.upper().startswith(prefix)}


def _store_report(
    context: Context, job: Job, recipe: Recipe, report: Mapping[str, Any]
) -> dict[str, StoredArtifact]:
    # Beside the row, not on it: a large model's is a hundred kilobytes, and a listing
    # shows a hundred rows.
    files = report_files(report, recipe, model=job.model)
    put = context.store.put_bytes
    return {
        "report": put(files.document, media_type="application/json"),
        "report.png": put(files.picture, media_type="image/png"),
    }


def _result(
    made: Mapping[str, StoredArtifact], manifest: Manifest, probe: str
) -> dict[str, Any]:
    stored, report, picture = (
        {"sha256": made[name].sha256, "size_bytes": made[name].size_bytes}
        for name in ("checkpoint", "report", "report.png")
    )
    return {
        "checkpoint": {**stored, "denoiser_bytes": manifest.denoiser_bytes},
        "float32_bytes": manifest.float32_bytes,
        "compression_ratio": manifest.float32_bytes / manifest.denoiser_bytes,
        # Equal SHA-256 of the outputs: not one bit differs.
        "verified": {"probe_sha256": probe, "max_abs_diff": 0.0, "bit_equal": True},
        "report": {**report, "picture": picture},
    }

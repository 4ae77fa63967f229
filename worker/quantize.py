"""The work of a quantization: model in, checked checkpoint out."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from jobs import repository
from jobs.artifacts import StoredArtifact
from jobs.models import Job
from jobs.repository import lease_of
from jobs.settings import Settings
from tcaq_core import checkpoint, diffusion, quantization
from tcaq_core.environment import describe_environment
from tcaq_core.errors import ExportFailed
from tcaq_core.manifest import Manifest
from tcaq_core.recipe import Recipe
from worker import archive
from worker.clock import utc_now
from worker.context import Context
from worker.json_safe import json_safe
from worker.models import FetchedModel, fetch_model
from worker.outcome import Progress, Succeeded

POLL_SECONDS = 0.5


def quantize(job: Job, context: Context, progress: Progress) -> Succeeded:
    """Fetch, calibrate, run the passes, save, and prove that it reloads bit-equal.

    Raises:
        TCAQError: the science refuses, or the checkpoint does not reproduce the model.
        LeaseLost: the job is no longer this worker's.
    """
    progress("fetch", 0, 1)
    recipe = Recipe.model_validate(job.recipe)
    model = fetch_model(job.model, context.settings)
    environment = describe_environment(context.device)
    _describe(job, context, model, environment)
    pipeline = diffusion.load_pipeline(model.folder, device=context.device)
    progress("fetch", 1, 1)
    quantized = quantization.quantize(pipeline, recipe, progress=progress)
    with TemporaryDirectory(prefix="quantize-", dir=context.scratch) as scratch:
        folder, packed = Path(scratch) / "checkpoint", Path(scratch) / "checkpoint.tar"
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
        probe = checkpoint.probe(pipeline)
        _check_reload(folder, probe, context, progress)
        archive.pack(folder, packed)
        stored = context.store.put(packed, media_type=archive.MEDIA_TYPE)
        progress("verify", 1, 1)
    return Succeeded(
        result=_result(stored, manifest, probe, quantized.report),
        artifacts={"checkpoint": stored},
    )


def _describe(
    job: Job,
    context: Context,
    model: FetchedModel,
    environment: Mapping[str, Any],
) -> None:
    with context.sessions.begin() as session:
        repository.describe(
            session,
            lease_of(job),
            model_info=model.info,
            environment=environment,
            now=utc_now(),
        )


def _check_reload(
    folder: Path, probe: str, context: Context, progress: Progress
) -> None:
    found = _probe_in_fresh_process(folder, context.device, progress)
    if found != probe:
        raise ExportFailed(
            "The checkpoint, read by a fresh process, does not give the outputs of "
            "the model that it was written from.",
            hint="Submit the job again; if it fails again, report the recipe.",
        )


def _probe_in_fresh_process(
    folder: Path, device: torch.device, progress: Progress
) -> str:
    command = [sys.executable, "-m", "tcaq_core.reload", str(folder)]
    command += ["--device", str(device), "--threads", str(torch.get_num_threads())]
    with subprocess.Popen(  # noqa: S603 - a fixed list, and paths that we made
        command,
        stdout=subprocess.PIPE,
        text=True,
        env=_environment_without_secrets(),
    ) as process:
        try:
            while True:
                try:
                    output, _ = process.communicate(timeout=POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    progress("verify", 0, 1)
        finally:
            process.kill()
    if process.returncode != 0:
        raise ExportFailed(
            "A fresh process could not read the checkpoint.",
            hint="The worker's log has its message.",
        )
    return str(json.loads(output)["probe_sha256"])


def _environment_without_secrets() -> dict[str, str]:
    # The URLs of database and broker hold passwords; the check needs neither.
    prefix = str(Settings.model_config["env_prefix"])
    return {k: v for k, v in os.environ.items() if not k.upper().startswith(prefix)}


def _result(
    stored: StoredArtifact,
    manifest: Manifest,
    probe: str,
    report: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "checkpoint": {
            "sha256": stored.sha256,
            "size_bytes": stored.size_bytes,
            "denoiser_bytes": manifest.denoiser_bytes,
        },
        "float32_bytes": manifest.float32_bytes,
        "compression_ratio": manifest.float32_bytes / manifest.denoiser_bytes,
        "simulated_ops": True,
        # Equal SHA-256 of the outputs: not one bit differs.
        "verified": {"probe_sha256": probe, "max_abs_diff": 0.0, "bit_equal": True},
        "report": json_safe(report),
    }

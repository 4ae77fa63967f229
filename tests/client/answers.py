"""What a service answers, as the interface's description shows it."""

import hashlib
import io
import tarfile
from collections.abc import Mapping
from typing import Any

JOB_ID = "job_" + "0" * 31 + "1"
SAMPLE_ID = "sample_" + "0" * 31 + "2"
PNG = b"\x89PNG not really"
PNG_SHA256 = hashlib.sha256(PNG).hexdigest()


def job(status: str = "queued", **changes: object) -> dict[str, Any]:
    """Return a job object."""
    return {
        "id": JOB_ID,
        "object": "job",
        "kind": "quantize",
        "status": status,
        "stage": None,
        "progress": {
            "percent": 0.0,
            "unit": None,
            "done": None,
            "total": None,
            "eta_s": None,
        },
        "created_at": "2026-11-20T10:00:00Z",
        "started_at": None,
        "finished_at": None,
        "model": {"reference": "ddpm-cifar10-small"},
        "recipe": {"weight_bits": 4, "activation_bits": 8},
        "steps": [],
        "result": None,
        "error": None,
        "warnings": [],
        **changes,
    }


def succeeded() -> dict[str, Any]:
    """Return a job object with a result that was timed."""
    speedup = {"over_float32": 5.5, "over_bfloat16": 1.9}
    result = {
        "execution": "integer",
        "execution_details": {"kernels": "onednn-int8"},
        "benchmark": {"speedup": speedup},
    }
    return job("succeeded", progress={"percent": 100.0}, result=result)


def score(metric: str = "fd", **changes: object) -> dict[str, Any]:
    """Return a score's record."""
    return {
        "metric": metric,
        "label": "FD-tiny-net",
        "value": 12.5,
        "ci95": [12.0, 13.0],
        "ci95_method": "jackknife",
        "protocol": {"name": "quick", "changed": ["num_images"]},
        "n_generated": 2000,
        "execution": "integer",
        "baseline": {
            "value": 10.25,
            "ci95": None,
            "delta": 2.25,
            "delta_ci95": [2.0, 2.5],
        },
        "notes": [],
        **changes,
    }


def evaluated(*scores: dict[str, Any], **changes: object) -> dict[str, Any]:
    """Return an evaluation that has ended with these scores."""
    result = {
        "execution": "integer",
        "execution_details": {"kernels": "onednn-int8"},
        "evaluation": {"scores": list(scores)},
    }
    progress = {"percent": 100.0}
    done = {"recipe": None, "result": result, "progress": progress}
    return job("succeeded", **{"kind": "evaluate", **done, **changes})


def point(weight_bits: int, *, on_front: bool, **changes: object) -> dict[str, Any]:
    """Return a sweep's point."""
    return {
        "weight_bits": weight_bits,
        "activation_bits": 8,
        "softmax_bits": 8,
        "recipe": "rtn",
        "recipe_digest": "sha256:" + "f" * 64,
        "checkpoint": {"sha256": f"{weight_bits:064x}", "size_bytes": 3_000_000},
        "bytes": 2_400_000,
        "ms_per_image": 12.34,
        "scores": [score()],
        "score": 12.5,
        "score_label": "FD-tiny-net",
        "on_front": on_front,
        **changes,
    }


def swept() -> dict[str, Any]:
    """Return a sweep that has ended with two points and a picture."""
    untimed: dict[str, Any] = {"ms_per_image": None, "score": None, "scores": []}
    result = {
        "points": [point(8, on_front=True), point(4, on_front=False, **untimed)],
        "picture": {"sha256": PNG_SHA256, "size_bytes": len(PNG)},
    }
    done = {"recipe": None, "result": result, "progress": {"percent": 100.0}}
    return job("succeeded", kind="sweep", **done)


def running(stage: str, percent: float, **changes: object) -> dict[str, Any]:
    """Return a job object in the middle of a stage."""
    return job(
        "running",
        stage={"name": stage, "index": 3, "count": 7},
        progress={
            "percent": percent,
            "unit": "block",
            "done": 17,
            "total": 38,
            "eta_s": 200.0,
        },
        **changes,
    )


def failed() -> dict[str, Any]:
    """Return a job object that ended badly."""
    return job(
        "failed",
        error={
            "code": "diverged",
            "title": "Reconstruction diverged",
            "detail": "The loss of up_blocks.1 became NaN.",
            "hint": "Lower par.learning_rate.",
            "retryable": False,
        },
    )


def problem(status: int, code: str, **changes: object) -> dict[str, Any]:
    """Return a problem document."""
    return {
        "type": f"/problems/{code.replace('_', '-')}",
        "title": "Not valid",
        "status": status,
        "detail": "The request is not valid.",
        "instance": "/jobs",
        "code": code,
        "request_id": "req-1",
        **changes,
    }


def sample(status: str = "succeeded", **changes: object) -> dict[str, Any]:
    """Return a sample object of two images with their baseline."""
    images = [
        {"seed": seed, "sha256": f"{seed:064x}", "width": 32, "height": 32}
        for seed in (5, 6)
    ]
    return {
        "id": SAMPLE_ID,
        "object": "sample",
        "status": status,
        "images": images,
        "baseline": images,
        "grid": {"sha256": PNG_SHA256, "width": 68, "height": 68},
        "execution": "integer",
        "execution_details": {"kernels": "onednn-int8"},
        "metrics": {"psnr_db": 31.5},
        "seconds_per_image": 0.25,
        "error": None,
        **changes,
    }


def tar(files: Mapping[str, bytes]) -> bytes:
    """Return an uncompressed tar of plain files."""
    members = []
    for name, content in files.items():
        member = tarfile.TarInfo(name)
        member.size = len(content)
        members.append((member, content))
    return tar_of(members)


def tar_of(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """Return an uncompressed tar of any members, bad ones included."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member, content in members:
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()

"""The problem that a failed job's row carries: a closed list of codes."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

TITLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "model_not_found": "There is no such model",
        "model_unsupported": "The model is not supported",
        "checkpoint_unsafe": "The weights are not safe to load",
        "checkpoint_shape_mismatch": "The weights are damaged",
        "calibration_failed": "Calibration failed",
        "out_of_memory": "The device ran out of memory",
        "diverged": "Reconstruction diverged",
        "export_failed": "What was written does not reproduce the model",
        "execution_unavailable": "That execution is not possible here",
        "evaluation_failed": "No score can be computed",
        "extractor_unavailable": "The feature network cannot be used",
        "reference_unusable": "The reference statistics cannot be used",
        "images_unusable": "The images cannot be used",
        "guard_violated": "A guard is not kept",
        "resume_refused": "The saved work of an earlier attempt cannot be used",
        "job_not_found": "There is no such job",
        "job_not_ready": "The job has not finished",
        "artifact_not_found": "There is no such artifact",
        "artifact_corrupt": "The stored file is damaged",
        "worker_lost": "The worker was lost",
        "cancelled": "The job was cancelled",
        "internal": "Internal error",
    }
)


def failure(code: str, detail: str, *, hint: str, retryable: bool) -> dict[str, Any]:
    """Return the problem for `Job.error`; `code` must be one of `TITLES`."""
    return {
        "code": code,
        "title": TITLES[code],
        "detail": detail,
        "hint": hint,
        "retryable": retryable,
    }

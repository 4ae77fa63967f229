"""What goes into the body of a request, from what a caller says."""

import re
from collections.abc import Mapping
from typing import Any, Final

_JOB_ID: Final = re.compile(r"job_[0-9a-f]{32}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def target_of(text: str) -> dict[str, str]:
    """Return a job's id, a checkpoint's SHA-256 or a model's name as a target."""
    if _JOB_ID.fullmatch(text):
        return {"job_id": text}
    if _SHA256.fullmatch(text):
        return {"checkpoint": text}
    return {"model": text}


def evaluation_of(asked: str | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the `evaluation` of a request from a protocol's name, or as it is."""
    return {"protocol": asked} if isinstance(asked, str) else asked


def said(**values: object) -> dict[str, object]:
    """Return what is not None: the rest is left to the service's defaults."""
    return {name: value for name, value in values.items() if value is not None}

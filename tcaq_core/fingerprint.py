"""What decides a job's bytes, in one number: who resumes must have the same."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tcaq_core.environment import describe_environment


def fingerprint_of(
    *,
    weights_sha256: str,
    recipe_digest: str,
    environment: Mapping[str, Any],
    files: Mapping[str, Path],
) -> str:
    """Return a hex SHA-256 over everything that decides a job's bytes.

    `files` are the model's configuration files; the code is this package's own.
    """
    parts = {
        "weights": weights_sha256,
        "recipe": recipe_digest,
        "environment": dict(environment),
        "files": {name: _sha256(path.read_bytes()) for name, path in files.items()},
        "code": code_digest(),
    }
    return _sha256(json.dumps(parts, sort_keys=True).encode())


def environment_digest(device: torch.device) -> str:
    """Return a hex SHA-256 over what this process computes with.

    Those who share a piece of work must have the same one: the versions, the
    processor, the threads and the code of the science decide the last bits.
    """
    parts = {"environment": describe_environment(device), "code": code_digest()}
    return _sha256(json.dumps(parts, sort_keys=True).encode())


@cache
def code_digest() -> str:
    """Return a hex SHA-256 over the source of the science.

    A number that somebody has to raise would be forgotten once; then work of two
    versions would be mixed.
    """
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(
            f"{path.relative_to(root)} {_sha256(path.read_bytes())}\n".encode()
        )
    return digest.hexdigest()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

"""Whose images are scored: a checkpoint, or a model in full precision."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from tcaq_core.errors import ModelNotFound
from worker.context import Context
from worker.execution import Wanted
from worker.loading import load_checkpoint, load_model
from worker.models import Loaded

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ModelSubject(BaseModel, frozen=True, extra="forbid"):
    """A model, down to its bytes: the same name may mean others tomorrow."""

    model: str
    weights_sha256: Sha256
    files_sha256: Sha256
    """Over its configuration files."""


class CheckpointSubject(BaseModel, frozen=True, extra="forbid"):
    """A stored checkpoint, and how it executes."""

    checkpoint: Sha256
    execution: Wanted = "auto"


Subject = ModelSubject | CheckpointSubject


def model_subject(loaded: Loaded) -> ModelSubject:
    """Return the subject that a loaded full-precision model is."""
    return ModelSubject(
        model=str(loaded.info["reference"]),
        weights_sha256=str(loaded.info["weights_sha256"]),
        files_sha256=_files_sha256(loaded.pipeline.files),
    )


def load_subject(subject: Subject, context: Context) -> Loaded:
    """Return a subject's pipeline, ready to sample.

    Raises:
        ModelNotFound: the model of that name has other bytes on this worker.
        TCAQError, JobError: as `load_model` and `load_checkpoint`.
    """
    if isinstance(subject, CheckpointSubject):
        return load_checkpoint(subject.checkpoint, context, execution=subject.execution)
    loaded = load_model(subject.model, context)
    if model_subject(loaded) != subject:
        raise ModelNotFound(
            f"{subject.model} has other weights or settings here than where the job "
            "was begun.",
            hint="Put the same model folder on every worker.",
        )
    return loaded


def _files_sha256(files: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(
            f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
        )
    return digest.hexdigest()

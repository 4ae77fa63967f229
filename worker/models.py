"""Models on this machine: from a reference to a folder, and pipelines in memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.settings import Settings
from tcaq_core.diffusion import Pipeline, fetch_hub_model
from tcaq_core.errors import ModelNotFound
from tcaq_core.model_folder import HubModel, inspect_model_folder, parse_reference
from tcaq_core.runtime.integer import Execution


@dataclass(frozen=True)
class FetchedModel:
    """A usable pipeline folder and what the ledger records of it."""

    folder: Path
    info: dict[str, Any]
    """``{reference, revision, weights_sha256, num_parameters}``; revision is null for
    a local folder."""


@dataclass(frozen=True)
class Loaded:
    """A pipeline and which model it is, or was quantized from."""

    pipeline: Pipeline
    info: dict[str, Any]
    execution: Execution | None = None
    """None: full precision."""


def fetch_model(reference: str, settings: Settings) -> FetchedModel:
    """Return the folder that a reference means, downloaded if need be.

    Raises:
        ModelNotFound, ModelUnsupported, CheckpointUnsafe, CheckpointShapeMismatch:
            as `parse_reference`, `fetch_hub_model` and `inspect_model_folder`.
    """
    found = parse_reference(reference, folders=settings.models_directory)
    if isinstance(found, HubModel):
        if not settings.allow_hub:
            raise ModelNotFound(
                "This worker does not fetch models from the hub.",
                hint="Use one of the local models: GET /models lists them.",
            )
        folder = fetch_hub_model(found, cache=settings.data_directory / "cache" / "hub")
        revision = found.revision
    else:
        folder, revision = found, None
    model = inspect_model_folder(folder)
    info = {
        "reference": reference,
        "revision": revision,
        "weights_sha256": model.weights_sha256(),
        "num_parameters": model.num_parameters,
    }
    return FetchedModel(folder=folder, info=info)

"""The models that jobs may name: looked at before anything is queued."""

from pathlib import Path
from typing import Final

from jobs.settings import Settings
from service.errors import FieldRejected
from service.schemas.catalog import ModelRead
from tcaq_core.errors import ModelNotFound, ModelUnsupported, TCAQError
from tcaq_core.model_folder import HubModel, inspect_model_folder, parse_reference

MODEL_POINTER: Final = "/model"


def check_model(
    reference: str, settings: Settings, *, pointer: str = MODEL_POINTER
) -> None:
    """Return if a job on that model can be queued.

    A hub model is only checked for being pinned: what is in it, the worker finds out.

    Raises:
        FieldRejected: unknown, unsupported, unsafe, damaged, or from a hub while hubs
            are switched off; names the usable models.
    """
    try:
        model = parse_reference(reference, folders=settings.models_directory)
        if isinstance(model, HubModel):
            _check_hub(settings)
        else:
            inspect_model_folder(model)
    except TCAQError as error:
        usable = [item.name for item in list_models(settings) if item.usable]
        raise FieldRejected(error, pointer=pointer, allowed=usable) from error


def local_folder(reference: str, settings: Settings) -> Path:
    """Return the folder of one of the service's own models.

    Raises:
        ModelNotFound: no such model, or one on a hub: what is in it is not known here.
    """
    found = parse_reference(reference, folders=settings.models_directory)
    if isinstance(found, HubModel):
        raise ModelNotFound(
            f"{reference} is not one of the service's own models.",
            hint="GET /models lists them.",
        )
    return found


def list_models(settings: Settings) -> list[ModelRead]:
    """Return every model folder, the unusable ones with the reason."""
    if not settings.models_directory.is_dir():
        return []
    folders = sorted(settings.models_directory.iterdir())
    return [
        _read(path.name, settings.models_directory)
        for path in folders
        if path.is_dir() and not path.name.startswith(".")
    ]


def _check_hub(settings: Settings) -> None:
    if not settings.allow_hub:
        raise ModelUnsupported(
            "Models from a hub are switched off on this service.",
            hint="Name one of the service's own models.",
        )


def _read(name: str, folders: Path) -> ModelRead:
    try:
        path = parse_reference(name, folders=folders)
        # A name that reads as a hub id cannot be a folder's: it holds a slash.
        assert isinstance(path, Path)  # noqa: S101
        found = inspect_model_folder(path)
    except TCAQError as error:
        return ModelRead(
            name=name,
            usable=False,
            reason=error.detail,
            hint=error.hint,
            code=error.code,
        )
    return ModelRead(
        name=name,
        usable=True,
        pipeline=found.pipeline,
        denoiser=found.denoiser,
        num_parameters=found.num_parameters,
        sample_size=found.sample_size,
        in_channels=found.in_channels,
    )

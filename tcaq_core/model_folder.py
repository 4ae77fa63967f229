"""What a model reference means and whether a folder can be quantized; torch-free.

The HTTP process looks here before anything is queued, the worker again before it
loads: one answer to "is this a model we can work on?", from JSON and file headers
alone. Nothing is ever unpickled.
"""

import hashlib
import json
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tcaq_core.errors import (
    CheckpointShapeMismatch,
    CheckpointUnsafe,
    ModelNotFound,
    ModelUnsupported,
)

DENOISERS: Final = ("UNet2DModel",)
PIPELINES: Final = ("DDPMPipeline", "DDIMPipeline")
SCHEDULERS: Final = ("DDPMScheduler", "DDIMScheduler")
WEIGHTS_NAME: Final = "diffusion_pytorch_model.safetensors"
PICKLES: Final = ("*.bin", "*.ckpt", "*.pt", "*.pth", "*.pkl")
MAX_HEADER_BYTES: Final = 100 * 2**20

_LOCAL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_HUB_NAME: Final = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})"
    r"(?:@(?P<revision>[0-9a-f]{40}))?",
    re.ASCII,
)


@dataclass(frozen=True)
class HubModel:
    """A model on a hub, pinned to one commit."""

    repo: str
    revision: str


@dataclass(frozen=True)
class ModelFolder:
    """A diffusers pipeline folder that passed `inspect_model_folder`.

    Parts lie in ``unet/`` and ``scheduler/``, or, as in the first pipelines on the
    hub, all at the root.
    """

    path: Path
    pipeline: str
    denoiser: str
    weights: Path
    scheduler: Path
    num_parameters: int
    sample_size: int
    in_channels: int

    def weights_sha256(self) -> str:
        """Return the hex SHA-256 of the denoiser's weight file."""
        with self.weights.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def parse_reference(reference: str, *, folders: Path) -> Path | HubModel:
    """Return the folder inside `folders` or the pinned hub model that is meant.

    ``name`` is a folder directly under `folders`; ``owner/name@<40 hex digits>`` is a
    hub model. No other path can be named, so no request reaches outside `folders`.

    Raises:
        ModelNotFound: neither form, no such folder, or a hub model without revision.
    """
    known = ", ".join(sorted(p.name for p in folders.glob("*/") if p.is_dir()))
    hint = f"Use one of: {known or '(no local models)'}; or owner/name@<commit>."
    if _LOCAL_NAME.fullmatch(reference):
        folder = folders / reference
        if folder.is_dir() and folder.resolve().parent == folders.resolve():
            return folder
        raise ModelNotFound(f"There is no model named {reference!r}.", hint=hint)
    match = _HUB_NAME.fullmatch(reference)
    if match is None:
        raise ModelNotFound(
            f"{reference!r} is neither a model's name nor a hub id.", hint=hint
        )
    if match["revision"] is None:
        raise ModelNotFound(
            f"The hub model {reference!r} is not pinned to a revision.",
            hint="Write owner/name@<full 40-digit commit hash>, so that the job can "
            "be repeated.",
        )
    return HubModel(repo=match["repo"], revision=match["revision"])


def inspect_model_folder(path: Path) -> ModelFolder:
    """Return what a diffusers pipeline folder holds, from its headers alone.

    Raises:
        ModelNotFound: no folder, or no model_index.json in it.
        ModelUnsupported: another pipeline, denoiser or scheduler than `PIPELINES`,
            `DENOISERS`, `SCHEDULERS`; class-conditional; or a malformed config.
        CheckpointUnsafe: weights exist only as pickles.
        CheckpointShapeMismatch: the safetensors file is truncated or malformed.
    """
    index = _read_json(path / "model_index.json")
    pipeline = _one_of(PIPELINES, index, what=path.name)
    unet = path / "unet" if (path / "unet").is_dir() else path
    config = _read_json(unet / "config.json")
    denoiser = _one_of(DENOISERS, config, what=f"The denoiser of {path.name}")
    if config.get("quantization_config") is not None:
        raise ModelUnsupported(
            f"The denoiser of {path.name} is quantized already.",
            hint="Quantize the model that it was made from.",
        )
    if config.get("num_class_embeds") is not None:
        raise ModelUnsupported(
            f"The denoiser of {path.name} is class-conditional.",
            hint="Only unconditional models can be quantized so far.",
        )
    nested = path / "scheduler" / "scheduler_config.json"
    scheduler = nested if nested.exists() else path / "scheduler_config.json"
    _one_of(SCHEDULERS, _read_json(scheduler), what=f"The scheduler of {path.name}")
    weights = _find_weights(path, unet)
    tensors = read_safetensors_header(weights).values()
    size = config.get("sample_size")
    return ModelFolder(
        path=path,
        pipeline=pipeline,
        denoiser=denoiser,
        weights=weights,
        scheduler=scheduler,
        num_parameters=sum(math.prod(tensor.shape) for tensor in tensors),
        sample_size=_positive(size[0] if isinstance(size, list) and size else size),
        in_channels=_positive(config.get("in_channels", 3)),
    )


def _one_of(known: tuple[str, ...], config: dict[str, Any], *, what: str) -> str:
    found = str(config.get("_class_name"))
    if found not in known:
        raise ModelUnsupported(
            f"{what} is a {found}.", hint=f"Supported: {', '.join(known)}."
        )
    return found


def _positive(value: object) -> int:
    if not isinstance(value, int) or value < 1:
        raise ModelUnsupported(
            f"The denoiser's config has {value!r} where a size belongs.",
            hint="unet/config.json needs sample_size and in_channels.",
        )
    return value


@dataclass(frozen=True)
class StoredTensor:
    """What a safetensors header says of one tensor."""

    dtype: str
    """``F32``, ``F16``, ``BF16``, ``U8``, ..."""
    shape: tuple[int, ...]


def read_safetensors_header(path: Path) -> dict[str, StoredTensor]:
    """Return what a file holds; it must be exactly as long as it declares.

    Raises:
        CheckpointShapeMismatch: truncated, padded, or not a safetensors file.
    """
    hint = "Copy the file again: its size does not match its own header."
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if length > min(size - 8, MAX_HEADER_BYTES):
            raise CheckpointShapeMismatch(
                f"{path.name} is truncated: {size} bytes, shorter than its header.",
                hint=hint,
            )
        raw = file.read(length)
    try:
        header: dict[str, Any] = json.loads(raw)
        tensors = {k: v for k, v in header.items() if k != "__metadata__"}
        end = max((v["data_offsets"][1] for v in tensors.values()), default=0)
        found = {
            k: StoredTensor(str(v["dtype"]), tuple(map(int, v["shape"])))
            for k, v in tensors.items()
        }
    except (
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise CheckpointShapeMismatch(
            f"{path.name} is not a safetensors file.", hint=hint
        ) from error
    if size != 8 + length + end:
        raise CheckpointShapeMismatch(
            f"{path.name} is truncated: {size} bytes where its header declares "
            f"{8 + length + end}.",
            hint=hint,
        )
    return found


def _find_weights(path: Path, unet: Path) -> Path:
    weights = unet / WEIGHTS_NAME
    if weights.is_file():
        return weights
    pickles = sorted(p.name for pattern in PICKLES for p in unet.glob(pattern))
    if pickles:
        raise CheckpointUnsafe(
            f"{path.name} has pickled weights only: {', '.join(pickles)}.",
            hint="Save it again with save_pretrained(folder, safe_serialization=True).",
        )
    raise ModelNotFound(
        f"{path.name} has no {WEIGHTS_NAME} beside its denoiser's config.",
        hint="Pickled, sharded and fp16-variant weights are not supported; save the "
        "pipeline with save_pretrained(folder, safe_serialization=True).",
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelNotFound(
            f"{path.parent.name} has no {path.name}.",
            hint="A model is a diffusers pipeline folder: model_index.json, unet/, "
            "scheduler/.",
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelUnsupported(
            f"{path.name} cannot be read as JSON.", hint="Save the pipeline again."
        ) from error
    if not isinstance(data, dict):
        raise ModelUnsupported(
            f"{path.name} is not a JSON object.", hint="Save the pipeline again."
        )
    return data

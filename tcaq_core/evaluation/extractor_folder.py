"""Which feature networks there are, and what each is; torch-free.

The HTTP process looks here before an evaluation is queued, the worker again before it
loads. An extractor is a folder ``NAME/`` with ``config.json`` and
``model.safetensors``, a bare safetensors file, or the FID Inception, whose weights a
setting names. Nothing is ever unpickled here.
"""

import re
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, ValidationError

from tcaq_core.errors import CheckpointShapeMismatch, ExtractorUnavailable
from tcaq_core.evaluation import inception_weights as canonical
from tcaq_core.evaluation.architectures import (
    INCEPTION_LAYER,
    INCEPTION_V3,
    RESNET_LAYER,
    Structure,
    is_used,
    num_spatial,
    structure_of,
)
from tcaq_core.evaluation.file_hash import sha256_of
from tcaq_core.evaluation.protocols import INCEPTION, Data
from tcaq_core.evaluation.record import ExtractorDtype, ExtractorInfo
from tcaq_core.model_folder import read_safetensors_header

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
SUFFIX: Final = ".safetensors"
TF1_RESIZE: Final = "tf1-bilinear-no-antialias"
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
TF1_MEAN: Final = (128 / 255,) * 3
"""The graph computes (x - 128) / 128 of x in 0..255."""
CIFAR_SIZE: Final = 32
DTYPES: Final = frozenset({"F32", "F16", "BF16"})
MAX_CONFIG_BYTES: Final = 2**16
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FORM: Final = (
    f"An extractor is a folder with {CONFIG} and {WEIGHTS}, or a .safetensors file: a "
    "ResNet for CIFAR (conv1, bn1, layer1.0.conv1, ..., linear; shortcuts without "
    "parameters) or an Inception v3 with the FID network's tensor names."
)

Three = tuple[float, float, float]
Positive = Annotated[float, Field(gt=0)]


class ExtractorConfig(Data):
    """What ``config.json`` says; other keys are for people."""

    model_config = ConfigDict(extra="ignore")

    architecture: Literal["cifar-resnet"]
    name: str | None = None
    mean: Three
    std: tuple[Positive, Positive, Positive]
    image_size: Annotated[int, Field(ge=8, le=512, multiple_of=4)] = CIFAR_SIZE


def find_extractor(
    name: str, *, directory: Path, inception_weights: str | None, dtype: ExtractorDtype
) -> ExtractorInfo:
    """Return the extractor of that name: in `directory`, or the FID Inception.

    `inception_weights` is the setting: a path, whose file is compared with the
    canonical hash, or an https URL, which `fetch_extractor` follows.

    Raises:
        ExtractorUnavailable: there is none of that name, it is not what it claims to
            be, or the setting is missing.
    """
    if name == INCEPTION:
        canonical.check_setting(inception_weights)
        return inception_info(dtype=dtype)
    return inspect_extractor(_confined(name, directory), dtype=dtype)


def fetch_extractor(
    name: str, *, directory: Path, inception_weights: str | None, cache: Path
) -> Path:
    """Return the path that `inspect_extractor` and `load_extractor` take.

    The Inception's weights are downloaded to the folder `cache` where the setting is a
    URL, once.

    Raises:
        ExtractorUnavailable: as `find_extractor`, or the download failed.
    """
    if name == INCEPTION:
        return canonical.fetch(inception_weights, cache=cache)
    return _confined(name, directory)


def inspect_extractor(path: Path, *, dtype: ExtractorDtype) -> ExtractorInfo:
    """Return what a folder or a file holds, from its config and tensors' names.

    A bare file's stem is its name. A bare ResNet sees images as ImageNet's were shown,
    an Inception as the FID network does; ``model.safetensors`` beside a config is that
    folder.

    Raises:
        ExtractorUnavailable: it is not an extractor, or not one that is known.
    """
    weights = weights_file(path)
    if path.is_file() and path.suffix != SUFFIX:
        # The one pickle that is ever read: its bytes are known.
        canonical.check_file(path)
        return inception_info(dtype=dtype)
    structure = _read_structure(weights)
    name = weights.stem
    if weights.name == WEIGHTS:
        name = weights.absolute().parent.name
    _require_name(name)
    sha256 = sha256_of(weights)
    beside, config = weights.parent / CONFIG, None
    if path.is_dir() or (weights.name == WEIGHTS and beside.is_file()):
        config = _read_config(beside, name=name, structure=structure)
    elif structure.architecture == "cifar-resnet":
        config = ExtractorConfig(
            architecture="cifar-resnet", mean=IMAGENET_MEAN, std=IMAGENET_STD
        )
    return _info(name, sha256, structure, config, dtype=dtype)


def weights_file(path: Path) -> Path:
    """Return the file with the tensors of an extractor's folder or file."""
    return path / WEIGHTS if path.is_dir() else path


def inception_info(*, dtype: ExtractorDtype) -> ExtractorInfo:
    """Return the record of the FID network with its canonical weights."""
    return _info(INCEPTION, canonical.SHA256, INCEPTION_V3, None, dtype=dtype)


def _info(
    name: str,
    sha256: str,
    structure: Structure,
    config: ExtractorConfig | None,
    *,
    dtype: ExtractorDtype,
) -> ExtractorInfo:
    """Return the record; without a config, of an Inception."""
    size = None if config is None else config.image_size
    return ExtractorInfo(
        name=name,
        weights_sha256=sha256,
        layer=INCEPTION_LAYER if config is None else RESNET_LAYER,
        num_features=structure.num_features,
        num_spatial=num_spatial(structure.architecture, size),
        num_classes=structure.num_classes,
        resize=TF1_RESIZE if config is None else "none",
        image_size=size,
        mean=TF1_MEAN if config is None else config.mean,
        std=TF1_MEAN if config is None else config.std,
        dtype=dtype,
    )


def _confined(name: str, directory: Path) -> Path:
    _require_name(name)
    for path in (directory / name, directory / f"{name}{SUFFIX}"):
        weights = weights_file(path)
        # A link inside must not lead outside either.
        if weights.is_file() and weights.resolve().is_relative_to(directory.resolve()):
            return path
    folders = (weights.parent.name for weights in directory.glob(f"*/{WEIGHTS}"))
    files = (path.stem for path in directory.glob(f"*{SUFFIX}"))
    known = ", ".join(sorted([*folders, *files, INCEPTION]))
    raise ExtractorUnavailable(
        f"There is no extractor named {name!r}.", hint=f"Use one of: {known}."
    )


def _require_name(name: str) -> None:
    if name == INCEPTION:
        raise ExtractorUnavailable(
            f"{INCEPTION} is the name of the canonical weights alone.",
            hint="Rename the file or folder: other weights are another extractor.",
        )
    if not _NAME.fullmatch(name):
        raise ExtractorUnavailable(
            f"{name[:80]!r} is not an extractor's name.",
            hint="Letters, digits, dots, hyphens and underscores, 64 at most, from a "
            "letter or a digit on; no path.",
        )


def _read_structure(weights: Path) -> Structure:
    try:
        tensors = read_safetensors_header(weights)
    except (OSError, CheckpointShapeMismatch) as error:
        reason = getattr(
            error, "detail", f"{weights.parent.name}/{weights.name} cannot be read."
        )
        raise ExtractorUnavailable(reason, hint=_FORM) from error
    used = {name: tensor for name, tensor in tensors.items() if is_used(name)}
    if other := sorted({tensor.dtype for tensor in used.values()} - DTYPES):
        raise ExtractorUnavailable(
            f"{weights.name} has tensors of {other}.", hint="Save them as float32."
        )
    structure = structure_of({name: tensor.shape for name, tensor in used.items()})
    if structure is None:
        raise ExtractorUnavailable(
            f"The tensors of {weights.name} are of no network that is known.",
            hint=_FORM,
        )
    return structure


def _read_config(path: Path, *, name: str, structure: Structure) -> ExtractorConfig:
    try:
        with path.open("rb") as file:
            config = ExtractorConfig.model_validate_json(file.read(MAX_CONFIG_BYTES))
    except OSError as error:
        raise ExtractorUnavailable(
            f"{name} has no {CONFIG} that can be read.", hint=_FORM
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or CONFIG
        raise ExtractorUnavailable(
            f"{name}/{CONFIG}: {where}: {first['msg']}.",
            hint="It needs architecture, mean and std (three numbers each, for pixels "
            "in 0..1) and may have name and image_size.",
        ) from error
    if config.architecture != structure.architecture:
        raise ExtractorUnavailable(
            f"{name}/{CONFIG} says {config.architecture}; the tensors are those of "
            f"{structure.architecture}.",
            hint=f"A folder holds a ResNet for CIFAR; name an Inception's file NAME"
            f"{SUFFIX} and leave it without a folder.",
        )
    if config.name not in (None, name):
        raise ExtractorUnavailable(
            f"{name}/{CONFIG} says that its name is {config.name!r}.",
            hint="Give the folder the name that stands in its config, or change that.",
        )
    return config

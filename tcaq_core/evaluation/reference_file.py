"""A file of reference statistics, as seen from its header; torch-free.

One safetensors file is one reference; the metadata key ``tcaq_reference`` holds its
`ReferenceInfo` as JSON. The HTTP process looks here before anything is queued, the
worker again before it draws: neither trusts a name alone.
"""

import re
from pathlib import Path
from typing import BinaryIO, Final

from pydantic import ValidationError

from tcaq_core.errors import ReferenceUnusable
from tcaq_core.evaluation.file_hash import sha256_of
from tcaq_core.evaluation.record import ReferenceInfo, ReferenceUsed
from tcaq_core.evaluation.tensor_file import Stored, TensorFile, read_tensor_file

METADATA_KEY: Final = "tcaq_reference"
FOLDER: Final = "references"
SUFFIX: Final = ".safetensors"
FEATURES: Final = "features"
POOLED: Final = "pooled"
SPATIAL: Final = "spatial"

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


def mean_of(kind: str) -> str:
    """Return the name of the tensor that holds a kind of features' mean."""
    return f"{kind}.mean"


def covariance_of(kind: str) -> str:
    """Return the name of the tensor that holds a kind of features' covariance."""
    return f"{kind}.covariance"


def tensors_of(info: ReferenceInfo) -> dict[str, Stored]:
    """Return what a file of such a reference holds, in order.

    Float64 means (F,) and covariances (F, F), float32 features (N, F).
    """
    widths = {POOLED: info.extractor.num_features}
    if info.has_spatial:
        widths[SPATIAL] = info.extractor.num_spatial
    found = {}
    for kind, width in widths.items():
        found[mean_of(kind)] = Stored("F64", (width,))
        found[covariance_of(kind)] = Stored("F64", (width, width))
    if info.has_features:
        found[FEATURES] = Stored("F32", (info.n, widths[POOLED]))
    return found


def find_reference(name: str, *, directory: Path) -> Path:
    """Return the file ``references/<name>.safetensors`` in a directory.

    Raises:
        ReferenceUnusable: no such file, or a name that leaves the folder.
    """
    folder = directory / FOLDER
    path = folder / f"{name}{SUFFIX}"
    if (
        _NAME.fullmatch(name) is None
        or not path.is_file()
        or path.resolve().parent != folder.resolve()
    ):
        raise ReferenceUnusable(
            f"There are no reference statistics named {name!r}.",
            hint="Make them with `tcaq reference IMAGES --extractor NETWORK --name "
            f"NAME`; known: {', '.join(known_references(directory)) or '(none)'}.",
        )
    return path


def known_references(directory: Path) -> tuple[str, ...]:
    """Return the names of all references in a directory, sorted."""
    files = (directory / FOLDER).glob(f"*{SUFFIX}")
    names = (path.name.removesuffix(SUFFIX) for path in files)
    return tuple(sorted(name for name in names if _NAME.fullmatch(name)))


def read_reference(path: Path) -> ReferenceUsed:
    """Return what a reference is made of and its hash, without loading its tensors.

    Raises:
        ReferenceUnusable: not ours, damaged, or its tensors are not what it says.
    """
    try:
        with path.open("rb") as file:
            info, _ = read_header(file, name=path.name)
        digest = sha256_of(path)
    except OSError as error:
        raise _unusable(path.name, f"{error.strerror}") from error
    return ReferenceUsed(stats_sha256=digest, info=info)


def read_header(file: BinaryIO, *, name: str) -> tuple[ReferenceInfo, TensorFile]:
    """Return an open file's info and the places of its tensors; `name` is for messages.

    Raises:
        ReferenceUnusable: as `read_reference`.
    """
    try:
        header = read_tensor_file(file)
        # Without the key: not JSON either.
        info = ReferenceInfo.model_validate_json(header.metadata.get(METADATA_KEY, ""))
    except ValidationError as error:
        raise _unusable(name, f"its header is not one of ours: {_first(error)}") from (
            error
        )
    except ValueError as error:
        raise _unusable(name, str(error)) from error
    wanted = tensors_of(info)
    if header.tensors.keys() != wanted.keys() or not all(
        header.tensors[key].is_like(tensor) for key, tensor in wanted.items()
    ):
        raise _unusable(name, "its tensors are not those that it declares")
    if info.n <= info.extractor.num_features:
        raise _unusable(name, f"{info.n} images say too little of so many features")
    return info, header


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    return ".".join(map(str, (*first["loc"], first["msg"])))


def _unusable(name: str, reason: str) -> ReferenceUnusable:
    return ReferenceUnusable(
        f"{name} cannot be used as a reference: {reason}.",
        hint="Make it again with `tcaq reference IMAGES --extractor NETWORK`, or copy "
        "the file again.",
    )

"""Reference statistics: made once of a data set, compared with ever after.

Images and features stream through: memory does not grow with their number. The same
images, network and batch size give the same bytes on the same machine.
"""

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from tcaq_core.errors import ImagesUnusable, ReferenceUnusable
from tcaq_core.evaluation.features import Extractor
from tcaq_core.evaluation.frechet import Gaussian
from tcaq_core.evaluation.images import Images
from tcaq_core.evaluation.record import ReferenceInfo, ReferenceUsed
from tcaq_core.evaluation.reference_file import (
    FEATURES,
    METADATA_KEY,
    POOLED,
    SPATIAL,
    covariance_of,
    mean_of,
    read_header,
    tensors_of,
)
from tcaq_core.evaluation.reference_sums import StreamedSums
from tcaq_core.evaluation.rows import FileRows, RowPart
from tcaq_core.evaluation.tensor_file import Stored, header_bytes

Tick = Callable[[int, int], None]
"""Receives (images done, images in all); what it raises ends the work."""

BATCH_SIZE: Final = 128
# As long as the hash that takes its place when all images have been seen.
UNKNOWN_SHA256: Final = "0" * 64
# Relative to the largest variance: rounding of a covariance is far below.
ASYMMETRY: Final = 1e-9


@dataclass(frozen=True, eq=False)
class Reference:
    """Reference statistics, loaded."""

    used: ReferenceUsed
    pooled: Gaussian
    spatial: Gaussian | None
    """None: the network has no spatial features, or there were too few images."""
    features: FileRows | None
    """Each image's pooled features; None: they were not kept."""


def make_reference(
    images: Images,
    extractor: Extractor,
    out: Path,
    *,
    name: str,
    keep_features: bool = True,
    batch_size: int = BATCH_SIZE,
    progress: Tick,
) -> ReferenceUsed:
    """Write the statistics of images in a network's features; return what they are.

    The file appears when it is complete. Spatial statistics are left out where there
    are no more images than spatial features: their covariance would be singular.

    Raises:
        ImagesUnusable: no more images than features, a size that the network does not
            take, a damaged file, or features that are not finite.
        ValueError: `name` is not one that can be asked for.
        OSError: the file cannot be written.
    """
    draft = _describe(images, extractor, name=name, keep_features=keep_features)
    tensors = tensors_of(draft)
    begin = len(_header(draft, tensors))
    statistics = [key for key in tensors if key != FEATURES]
    with _replacing(out) as file:
        file.seek(begin + sum(tensors[key].size_bytes for key in statistics))
        sums = StreamedSums(
            file if keep_features else None, has_spatial=draft.has_spatial
        )
        for batch in images.batches(batch_size):
            sums.add(batch, extractor)
            progress(sums.count, images.num_images)
        info = draft.model_copy(update={"images_sha256": sums.pixels.hexdigest()})
        file.seek(0)
        file.write(_header(info, tensors))
        found = sums.statistics()
        for key in statistics:
            file.write(found[key].numpy().astype("<f8").tobytes())
        # What a reader would refuse takes no name.
        read_header(file, name=out.name)
        digest = _sha256_of(file)
    return ReferenceUsed(stats_sha256=digest, info=info)


def load_reference(path: Path, *, expected_sha256: str | None = None) -> Reference:
    """Return a file's statistics; its features stay in the file.

    Raises:
        ReferenceUnusable: another file than expected, damaged, or not ours.
    """
    try:
        with path.open("rb") as file:
            digest = _sha256_of(file)
            _refuse_other(path, digest, expected_sha256)
            info, header = read_header(file, name=path.name)
            pooled = _gaussian(file, header.tensors, POOLED, info, path)
            spatial = (
                _gaussian(file, header.tensors, SPATIAL, info, path)
                if info.has_spatial
                else None
            )
    except OSError as error:
        raise _damaged(path, f"{error.strerror}") from error
    features = None
    if info.has_features:
        part = RowPart(path, header.tensors[FEATURES].offset, info.n)
        features = FileRows((part,), info.extractor.num_features)
    used = ReferenceUsed(stats_sha256=digest, info=info)
    return Reference(used, pooled, spatial, features)


def _describe(
    images: Images, extractor: Extractor, *, name: str, keep_features: bool
) -> ReferenceInfo:
    network = extractor.info
    needed = network.num_features + 1
    if images.num_images < needed:
        raise ImagesUnusable(
            f"{images.num_images} images leave the covariance of "
            f"{network.num_features} features singular.",
            hint=f"At least {needed} images are needed; the whole data set is best.",
        )
    side = network.image_size
    if side is not None and images.image_size != (side, side):
        height, width = images.image_size
        raise ImagesUnusable(
            f"{network.name} takes {side} x {side} images; these are {width} x "
            f"{height}.",
            hint="Name another extractor, or bring the images to its size.",
        )
    return ReferenceInfo(
        name=name,
        n=images.num_images,
        image_size=images.image_size,
        images_sha256=UNKNOWN_SHA256,
        extractor=network,
        has_spatial=0 < network.num_spatial < images.num_images,
        has_features=keep_features,
    )


def _header(info: ReferenceInfo, tensors: dict[str, Stored]) -> bytes:
    return header_bytes({METADATA_KEY: info.model_dump_json()}, tensors)


@contextmanager
def _replacing(out: Path) -> Iterator[BinaryIO]:
    """Open a file that takes its name when the block ends, and not if it fails."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".partial-{secrets.token_hex(8)}")
    try:
        with partial.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _sha256_of(file: BinaryIO) -> str:
    file.flush()
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type] # typeshed wants more than BinaryIO


def _gaussian(
    file: BinaryIO,
    tensors: dict[str, Stored],
    kind: str,
    info: ReferenceInfo,
    path: Path,
) -> Gaussian:
    mean = _read(file, tensors[mean_of(kind)])
    covariance = _read(file, tensors[covariance_of(kind)])
    gap = float((covariance - covariance.T).abs().max())
    # Not finite: the comparison is false.
    if not gap <= ASYMMETRY * float(covariance.diagonal().max()):
        raise _damaged(path, f"its {covariance_of(kind)} is no covariance")
    if not bool(mean.isfinite().all()):
        raise _damaged(path, f"its {mean_of(kind)} is not finite")
    return Gaussian(mean, covariance, info.n)


def _read(file: BinaryIO, stored: Stored) -> Float64[Tensor, "..."]:
    file.seek(stored.offset)
    raw = np.frombuffer(file.read(stored.size_bytes), "<f8")
    return torch.from_numpy(raw.astype(np.float64).reshape(stored.shape))


def _refuse_other(path: Path, digest: str, expected: str | None) -> None:
    if expected is not None and digest != expected:
        raise ReferenceUnusable(
            f"{path.name} is not the reference that this evaluation was planned with: "
            f"its sha256 is {digest}, not {expected}.",
            hint="Put the same file on the server and on every worker.",
        )


def _damaged(path: Path, reason: str) -> ReferenceUnusable:
    return ReferenceUnusable(
        f"{path.name} cannot be used as a reference: {reason}.",
        hint="Copy the file again, or make it again with `tcaq reference`.",
    )

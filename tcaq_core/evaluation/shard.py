"""One claimable piece of an evaluation: some images of one subject, as features.

Nothing in a shard depends on who made it or when: the same plan, subject and
environment give the same bytes.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from tcaq_core.diffusion import Pipeline
from tcaq_core.errors import EvaluationFailed
from tcaq_core.evaluation.drawing import Drawn, Tick, draw
from tcaq_core.evaluation.features import Extractor, Features
from tcaq_core.evaluation.plan import EvaluationPlan
from tcaq_core.evaluation.protocols import LOGIT_METRICS, SPATIAL_METRICS
from tcaq_core.evaluation.rows import FileRows, open_rows

POOLED: Final = "pooled"
SPATIAL: Final = "spatial"
LOGITS: Final = "logits"
PIXELS: Final = "pixels"
DIGESTS: Final = "image_sha256"

Keep = Callable[[int, UInt8[np.ndarray, "H W C"]], None]
"""Receives (image index, pixels) of every image, in order."""


def make_shard(
    pipeline: Pipeline,
    extractor: Extractor | None,
    plan: EvaluationPlan,
    number: int,
    *,
    tick: Tick,
    keep: Keep | None = None,
) -> bytes:
    """Draw a shard's images and return their features as a safetensors file.

    It holds what the plan's metrics need and no more; pixels only of the images that
    paired metrics compare. Of every image, the SHA-256 of its pixels.

    Raises:
        EvaluationFailed: images or features that are not finite, or of a size that
            the network does not take.
        Interrupted: `tick` asks to stop.
    """
    parts = [
        _part(drawn, extractor, plan, keep)
        for drawn in draw(
            pipeline,
            plan.sampling,
            images=plan.images_of(number),
            seed=plan.seed,
            batch_size=plan.batch_size,
            tick=tick,
        )
    ]
    return save({name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def _part(
    drawn: Drawn,
    extractor: Extractor | None,
    plan: EvaluationPlan,
    keep: Keep | None,
) -> dict[str, Tensor]:
    part = {DIGESTS: _digests(drawn.pixels)}
    # Of a slice past the end nothing is left, in the shape that the others have.
    kept = max(plan.paired_images - drawn.indices.start, 0) if plan.baseline else 0
    part[PIXELS] = drawn.pixels[:kept].contiguous()
    if extractor is not None:
        part |= _wanted(extractor(drawn.pixels), plan)
    if keep is not None:
        for index, pixels in zip(drawn.indices, drawn.pixels.numpy(), strict=True):
            keep(index, pixels)
    return part


def _wanted(features: Features, plan: EvaluationPlan) -> dict[str, Tensor]:
    wanted = set(plan.metrics)
    found = {POOLED: features.pooled}
    if wanted & SPATIAL_METRICS and features.spatial is not None:
        found[SPATIAL] = features.spatial
    if wanted & LOGIT_METRICS and features.logits is not None:
        found[LOGITS] = features.logits
    return found


def _digests(pixels: UInt8[Tensor, "N H W C"]) -> UInt8[Tensor, "N 32"]:
    digests = [hashlib.sha256(image.tobytes()).digest() for image in pixels.numpy()]
    rows = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32)
    return torch.from_numpy(rows.copy())


@dataclass(frozen=True)
class Subject:
    """All shards of one model, in order: files that are read piece by piece."""

    shards: tuple[Path, ...]
    identity: Mapping[str, str] = field(default_factory=dict, compare=False)
    """The hashes of what drew them."""

    def tensor(self, number: int, name: str) -> Tensor:
        """Return one tensor of one shard.

        Raises:
            EvaluationFailed: the file is damaged, or has no such tensor.
        """
        path = self.shards[number]
        try:
            with safe_open(path, framework="pt") as file:
                found: Tensor = file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise EvaluationFailed(
                f"Shard {number} of the evaluation cannot be read.",
                hint="Submit the job again: a shard whose file is lost is made anew.",
            ) from error
        return found

    def features(self, name: str) -> FileRows:
        """Return the rows of all images, in order; they stay in the files.

        Raises:
            EvaluationFailed: a file is damaged, or has no such features.
        """
        return open_rows(self.shards, tensor=name)

    def paired_pixels(self) -> Iterator[UInt8[Tensor, "P H W C"]]:
        """Yield the images that paired metrics compare, a shard's at a time.

        Shards that have none are left out.
        """
        for number in range(len(self.shards)):
            found = self.tensor(number, PIXELS)
            if len(found):
                yield found

    def manifest_sha256(self) -> str:
        """Return the hex SHA-256 over every image's SHA-256, in order."""
        digest = hashlib.sha256()
        for number in range(len(self.shards)):
            digest.update(self.tensor(number, DIGESTS).numpy().tobytes())
        return digest.hexdigest()

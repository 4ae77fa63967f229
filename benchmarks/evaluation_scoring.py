"""Scores of features from a seed, through the files that workers write and read.

The extractor is a stand-in that takes no time: what is measured is everything behind
it, `make_reference` and `score`, on as many images as one likes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.evaluation_workload import random_images
from tcaq_core.evaluation.features import Features
from tcaq_core.evaluation.images import open_images
from tcaq_core.evaluation.plan import EvaluationPlan
from tcaq_core.evaluation.protocols import PROTOCOLS, Metric
from tcaq_core.evaluation.record import ExtractorInfo, ReferenceUsed, ScoreRecord
from tcaq_core.evaluation.reference import load_reference, make_reference
from tcaq_core.evaluation.reference_file import read_reference
from tcaq_core.evaluation.scoring import Scored, score
from tcaq_core.evaluation.shard import DIGESTS, LOGITS, PIXELS, POOLED, Subject

SIDE: Final = 8
NUM_CLASSES: Final = 10
SHARD_IMAGES: Final = 250
METRICS: Final[tuple[Metric, ...]] = ("fd", "kd", "cs")
"""Those of the named protocols. Precision and recall hold a few matrices of 2,048^2
distances besides: 200 to 320 MB, at 2,000 images as at 40,000."""
REFERENCE: Final = "reference.safetensors"
IMAGES: Final = "images.npz"
MADE: Final = "made.safetensors"
WIDTH: Final = "width"
_UNKNOWN: Final = "0" * 64


@dataclass(frozen=True)
class RandomFeatures:
    """An `Extractor` of features that cost nothing: relu of a random projection."""

    width: int

    @property
    def info(self) -> ExtractorInfo:
        """Which network it claims to be."""
        return ExtractorInfo(
            name="random-features",
            weights_sha256=_UNKNOWN,
            layer="relu",
            num_features=self.width,
            num_spatial=0,
            num_classes=NUM_CLASSES,
            resize="none",
            image_size=SIDE,
            mean=(0.5, 0.5, 0.5),
            std=(0.25, 0.25, 0.25),
        )

    def __call__(self, images: Tensor) -> Features:
        """Return the features of images (N, 8, 8, 3)."""
        x = images.flatten(1).float() / 64 - 2
        generator = torch.Generator().manual_seed(self.width)
        matrix = torch.randn((x.shape[1], self.width), generator=generator)
        pooled = (x @ matrix).div_(x.shape[1] ** 0.5).relu_()
        return Features(pooled, None, pooled[:, :NUM_CLASSES].contiguous())


def write_inputs(
    folder: Path, *, num_images: int, width: int, num_reference: int
) -> Path:
    """Write shards of so many images, and a reference to compare them with.

    Beside them, the same number of images, for a reference to be made of them.
    """
    extractor = RandomFeatures(width)
    folder.mkdir(parents=True)
    (folder / WIDTH).write_text(str(width), encoding="ascii")
    pixels = random_images(num_reference, seed=0, size=SIDE).numpy()
    np.savez(folder / IMAGES, images=pixels)
    _reference(folder, extractor, folder / REFERENCE)
    np.savez(
        folder / IMAGES, images=random_images(num_images, seed=1, size=SIDE).numpy()
    )
    for number, first in enumerate(range(0, num_images, SHARD_IMAGES)):
        count = min(SHARD_IMAGES, num_images - first)
        found = extractor(random_images(count, seed=2 + number, size=SIDE))
        _write_shard(folder / f"{number:06d}.safetensors", found, count)
    return folder


def _write_shard(path: Path, found: Features, count: int) -> None:
    assert found.logits is not None  # noqa: S101 - the stand-in has classes
    tensors = {
        DIGESTS: torch.zeros((count, 32), dtype=torch.uint8),
        PIXELS: torch.zeros((0, SIDE, SIDE, 3), dtype=torch.uint8),
        POOLED: found.pooled,
        LOGITS: found.logits,
    }
    save_file(tensors, path)


def write_reference(folder: Path) -> ReferenceUsed:
    """Make a reference of the folder's images, as `tcaq reference` does."""
    width = int((folder / WIDTH).read_text(encoding="ascii"))
    return _reference(folder, RandomFeatures(width), folder / MADE)


def _reference(folder: Path, extractor: RandomFeatures, out: Path) -> ReferenceUsed:
    return make_reference(
        open_images(folder / IMAGES),
        extractor,
        out,
        name="random",
        progress=lambda _done, _total: None,
    )


def score_folder(
    folder: Path, *, metrics: tuple[Metric, ...] = METRICS
) -> tuple[ScoreRecord, ...]:
    """Score the folder's shards against its reference, as a worker does."""
    paths = tuple(sorted(folder.glob("[0-9]*.safetensors")))
    subject = Subject(paths)
    used = read_reference(folder / REFERENCE)
    plan = EvaluationPlan(
        protocol="quick",
        changed=(),
        metrics=metrics,
        sampling=PROTOCOLS["quick"].sampling,
        image_size=None,
        num_images=len(subject.features(POOLED)),
        seed=0,
        baseline=False,
        paired_images=2,
        batch_size=SHARD_IMAGES,
        shard_images=SHARD_IMAGES,
        keep_images=False,
        extractor=used.info.extractor,
        reference=used,
    )
    reference = load_reference(folder / REFERENCE, expected_sha256=used.stats_sha256)
    return score(
        Scored(plan, subject, None, reference),
        execution="simulated",
        environment_digest=_UNKNOWN,
        tick=lambda: None,
    )

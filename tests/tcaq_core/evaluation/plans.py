"""Plans and a small network, for the tests of what evaluates."""

from typing import Any

import torch
from torch import Tensor, nn

from tcaq_core.evaluation.features import Features
from tcaq_core.evaluation.plan import EvaluationPlan
from tcaq_core.evaluation.protocols import Metric, Sampling
from tcaq_core.evaluation.record import (
    Baseline,
    ExtractorInfo,
    Generated,
    Implementation,
    ProtocolUsed,
    ScoreRecord,
    Seeds,
)

NUM_FEATURES = 6


class RandomNetwork:
    """A seeded random convolution and its pooled output: a real extractor, small."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(5)
        self.kernel = torch.randn(NUM_FEATURES, 3, 3, 3, generator=generator) / 5
        self.info = ExtractorInfo(
            name="random-convolution",
            weights_sha256="0" * 64,
            layer="pooled",
            num_features=NUM_FEATURES,
            num_spatial=36,
            num_classes=3,
            resize="none",
            image_size=None,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        )

    def __call__(self, images: Tensor) -> Features:
        x = images.permute(0, 3, 1, 2).float() / 127.5 - 1
        found = nn.functional.conv2d(x, self.kernel)
        return Features(
            pooled=found.amax((2, 3)).contiguous(),
            spatial=found[:, :1].flatten(1).contiguous(),
            logits=found.mean((2, 3))[:, :3].contiguous(),
        )


def make_plan(**changes: Any) -> EvaluationPlan:  # noqa: ANN401 - a plan's fields
    """Return a plan of ten images in shards of four."""
    values: dict[str, Any] = {
        "protocol": "quick",
        "changed": ("num_images",),
        "metrics": ("fd", "psnr_db", "ssim", "feature_distance"),
        "sampling": Sampling(num_steps=2),
        "image_size": None,
        "num_images": 10,
        "seed": 3,
        "baseline": True,
        "paired_images": 6,
        "batch_size": 2,
        "shard_images": 4,
        "keep_images": False,
        "extractor": RandomNetwork().info,
        "reference": None,
    }
    return EvaluationPlan(**(values | changes))


def make_score(
    metric: Metric, value: float | None, *, delta: float | None = None
) -> ScoreRecord:
    """Return a record of one metric, with a baseline where a delta is given."""
    baseline = None
    if delta is not None and value is not None:
        baseline = Baseline(
            subject={},
            manifest_sha256="0" * 64,
            value=value - delta,
            ci95=None,
            delta=delta,
            delta_ci95=None,
        )
    plan = make_plan()
    return ScoreRecord(
        metric=metric,
        label=metric.upper(),
        value=value,
        ci95=None,
        ci95_method=None,
        protocol=ProtocolUsed(name="quick"),
        n_generated=10,
        reference=None,
        features=None,
        images=Generated(
            subject={}, batch_size=50, format="none", manifest_sha256="0" * 64
        ),
        sampler=plan.sampling,
        seeds=Seeds(base=0),
        execution="integer",
        implementation=Implementation(version="0"),
        environment_digest="0" * 64,
        baseline=baseline,
    )

"""Paired metrics of a subject: its images against the baseline's of the same noise."""

from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from tcaq_core.evaluation.jackknife import mean_interval
from tcaq_core.evaluation.measured import Measured
from tcaq_core.evaluation.paired import feature_distance, per_image_psnr_db, ssim
from tcaq_core.evaluation.shard import POOLED, Subject
from tcaq_core.evaluation.spec import EvaluationPlan


def measure(
    images: Subject,
    baseline: Subject,
    plan: EvaluationPlan,
    metric: Literal["psnr_db", "ssim", "feature_distance"],
) -> Measured:
    """Return the mean over the plan's paired images, from the first on.

    Raises:
        EvaluationFailed: as the metric's function.
    """
    values = _values(images, baseline, plan, metric)
    mean = values.mean()
    value = float(mean) if bool(mean.isfinite()) else None
    return Measured(value, mean_interval(values))


def _values(
    images: Subject, baseline: Subject, plan: EvaluationPlan, metric: str
) -> Float64[Tensor, "P"]:
    if metric == "feature_distance":
        first = torch.arange(plan.paired_images)
        return feature_distance(
            images.features(POOLED).rows(first), baseline.features(POOLED).rows(first)
        )
    compare = per_image_psnr_db if metric == "psnr_db" else ssim
    return compare(images.paired_pixels(), baseline.paired_pixels())

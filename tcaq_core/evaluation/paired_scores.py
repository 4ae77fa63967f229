"""Paired metrics of a subject: its images against the baseline's of the same noise."""

from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from tcaq_core.evaluation.jackknife import mean_interval
from tcaq_core.evaluation.measured import Measured
from tcaq_core.evaluation.paired import feature_distance, per_image_psnr_db, ssim
from tcaq_core.evaluation.plan import EvaluationPlan
from tcaq_core.evaluation.shard import POOLED, Subject


def measure(
    images: Subject,
    baseline: Subject,
    plan: EvaluationPlan,
    metric: Literal["psnr_db", "ssim", "feature_distance"],
) -> Measured:
    """Return the mean over the plan's paired images, from the first on.

    An image that equals the baseline's has an infinite PSNR. The mean is over the
    others, which is less than the truth: one equal pair must not hide what happened to
    the rest. The value is infinite where all are equal.

    Raises:
        EvaluationFailed: as the metric's function.
    """
    values = _values(images, baseline, plan, metric)
    finite = values[~values.isinf()]
    if len(finite) == 0:
        return Measured(None, None)
    num_equal = len(values) - len(finite)
    note = (
        f"{num_equal} of {len(values)} images equal the baseline's: their {metric} is "
        "infinite, and the mean is over the others."
    )
    notes = (note,) if num_equal else ()
    return Measured(float(finite.mean()), mean_interval(finite), notes=notes)


def _values(
    images: Subject, baseline: Subject, plan: EvaluationPlan, metric: str
) -> Float64[Tensor, "P"]:
    if metric == "feature_distance":
        first = torch.arange(plan.paired_images)
        return feature_distance(
            images.features(POOLED).rows(first), baseline.features(POOLED).rows(first)
        )
    compare = per_image_psnr_db if metric == "psnr_db" else ssim
    return torch.cat(
        [
            compare(own, theirs)
            for own, theirs in zip(
                images.paired_pixels(), baseline.paired_pixels(), strict=True
            )
        ]
    )

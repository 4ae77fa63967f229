"""From shards of features to score records: the last step of an evaluation.

It reads the shards in order, piece by piece, so the scores do not depend on who made
which, and memory does not grow with the number of images.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from typing import Any, Final, TypeVar, assert_never

from tcaq_core.errors import ReferenceUnusable
from tcaq_core.evaluation import frechet_score, network_scores, paired_scores
from tcaq_core.evaluation.frechet import ReferenceRoot
from tcaq_core.evaluation.jackknife import jackknife_interval, paired_difference
from tcaq_core.evaluation.measured import Measured
from tcaq_core.evaluation.network_scores import Manifold
from tcaq_core.evaluation.plan import EvaluationPlan
from tcaq_core.evaluation.protocols import (
    LOGIT_METRICS,
    PAIRED_METRICS,
    PIXEL_METRICS,
    Metric,
)
from tcaq_core.evaluation.record import (
    Baseline,
    Generated,
    Implementation,
    ProtocolUsed,
    ScoreRecord,
    Seeds,
    label_of,
)
from tcaq_core.evaluation.reference import Reference
from tcaq_core.evaluation.rows import FileRows
from tcaq_core.evaluation.shard import POOLED, SPATIAL, Subject

FRECHET_METRICS: Final = frozenset({"fid", "sfid", "fd", "sfd"})
FEW_IMAGES: Final = 10_000
"""Below that a Frechet distance's bias at n is larger than most differences."""
T = TypeVar("T")

Tick = Callable[[], None]
"""Called between pieces of the work; may raise `Interrupted`."""


@dataclass(frozen=True)
class Scored:
    """What is scored: the images, and what they are compared with."""

    plan: EvaluationPlan
    images: Subject
    baseline: Subject | None
    reference: Reference | None
    _manifolds: dict[Subject, Manifold] = field(
        default_factory=dict, init=False, compare=False
    )

    @cached_property
    def pooled(self) -> ReferenceRoot:
        """The reference's pooled features, as Frechet distances need them."""
        return ReferenceRoot.of(self._given().pooled)

    @cached_property
    def spatial(self) -> ReferenceRoot:
        """The same of its spatial features."""
        found = self._given().spatial
        return ReferenceRoot.of(_there(found, "spatial statistics"))

    @property
    def features(self) -> FileRows:
        """The features of each of the reference's images."""
        return _there(self._given().features, "features of each image")

    def manifold(self, images: Subject, tick: Tick) -> Manifold:
        """Return a subject's precision and recall, computed once."""
        if images not in self._manifolds:
            self._manifolds[images] = network_scores.manifold(
                images.features(POOLED), self.features, tick=tick
            )
        return self._manifolds[images]

    def _given(self) -> Reference:
        if self.reference is None:
            raise ReferenceUnusable(
                "A metric compares with reference statistics, and none are given.",
                hint="Name them; `tcaq reference` makes them.",
            )
        return self.reference


def score(
    scored: Scored, *, execution: str, environment_digest: str, tick: Tick
) -> tuple[ScoreRecord, ...]:
    """Return a record of each of the plan's metrics, in order.

    Raises:
        EvaluationFailed: images or features that give no score.
        ReferenceUnusable: a metric needs a reference and none is given.
        Interrupted: `tick` asks to stop.
    """
    images = Generated(
        subject=dict(scored.images.identity),
        batch_size=scored.plan.batch_size,
        format="png" if scored.plan.keep_images else "none",
        manifest_sha256=scored.images.manifest_sha256(),
    )
    records = []
    beside = None if scored.baseline is None else _described_baseline(scored.baseline)
    for metric in scored.plan.metrics:
        tick()
        own = _measure(metric, scored, scored.images, tick)
        baseline = None
        if scored.baseline and beside and metric not in PAIRED_METRICS:
            tick()
            theirs = _measure(metric, scored, scored.baseline, tick)
            baseline = _beside(own, theirs, beside)
        records.append(
            ScoreRecord(
                **_described(metric, scored.plan),
                value=own.value,
                ci95=own.bounds,
                ci95_method=own.method,
                images=images,
                execution=execution,
                environment_digest=environment_digest,
                baseline=baseline,
                notes=(*own.notes, *_notes(metric, scored.plan)),
            )
        )
    return tuple(records)


def _described(metric: Metric, plan: EvaluationPlan) -> dict[str, Any]:
    """Return what a record says that follows from the plan alone."""
    is_paired = metric in PAIRED_METRICS
    network = None if metric in PIXEL_METRICS else plan.extractor
    has_reference = not is_paired and metric not in LOGIT_METRICS
    return {
        "metric": metric,
        "label": label_of(metric, network),
        "protocol": ProtocolUsed(name=plan.protocol, changed=plan.changed),
        "n_generated": plan.paired_images if is_paired else plan.num_images,
        "reference": plan.reference if has_reference else None,
        "features": network,
        "sampler": plan.sampling,
        "seeds": Seeds(base=plan.seed),
        "implementation": Implementation(version=version("tcaq")),
    }


def _measure(  # noqa: PLR0911 - one a metric
    metric: Metric, scored: Scored, images: Subject, tick: Tick
) -> Measured:
    match metric:
        case "fid" | "fd":
            features = images.features(POOLED)
            return frechet_score.measure(features, scored.pooled, tick=tick)
        case "sfid" | "sfd":
            features = images.features(SPATIAL)
            return frechet_score.measure(features, scored.spatial, tick=tick)
        case "kid" | "kd":
            features = images.features(POOLED)
            return network_scores.kernel(features, scored.features, tick=tick)
        case "is" | "cs":
            return network_scores.classifier(images, scored.plan)
        case "precision":
            return scored.manifold(images, tick).precision
        case "recall":
            return scored.manifold(images, tick).recall
        case "psnr_db" | "ssim" | "feature_distance":
            assert scored.baseline is not None  # noqa: S101 - as the request says
            return paired_scores.measure(images, scored.baseline, scored.plan, metric)
        case _:
            assert_never(metric)


def _there(part: T | None, what: str) -> T:
    if part is None:
        raise ReferenceUnusable(
            f"The reference has no {what}.", hint="Make it again with `tcaq reference`."
        )
    return part


def _described_baseline(images: Subject) -> dict[str, Any]:
    return {
        "subject": dict(images.identity),
        "manifest_sha256": images.manifest_sha256(),
    }


def _beside(
    own: Measured, beside: Measured, described: Mapping[str, Any]
) -> Baseline | None:
    if own.value is None or beside.value is None:
        return None
    return Baseline(
        **described,
        value=beside.value,
        ci95=beside.bounds,
        delta=own.value - beside.value,
        delta_ci95=_paired_bounds(own, beside),
    )


def _paired_bounds(own: Measured, beside: Measured) -> tuple[float, float] | None:
    """Return the interval of the difference: same images left out, same subsets."""
    assert own.value is not None  # noqa: S101 - as the caller has seen
    assert beside.value is not None  # noqa: S101
    found = None
    if own.replicates is not None and beside.replicates is not None:
        found = jackknife_interval(paired_difference(own.replicates, beside.replicates))
    elif own.spread is not None and beside.spread is not None:
        found = own.spread.minus(beside.spread).interval(own.value - beside.value)
    return None if found is None else (found.low, found.high)


def _notes(metric: Metric, plan: EvaluationPlan) -> tuple[str, ...]:
    if metric not in FRECHET_METRICS or plan.num_images >= FEW_IMAGES:
        return ()
    note = (
        f"A Frechet distance over {plan.num_images} images is biased upwards: compare "
        "it only with others of as many images."
    )
    return (note,)

"""An evaluation with nothing left to choose: the plan of its work; torch-free."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tcaq_core.evaluation.protocols import (
    LOGIT_METRICS,
    PAIRED_METRICS,
    PROTOCOLS,
    SPATIAL_METRICS,
    Data,
    Metric,
    Protocol,
    Sampling,
)
from tcaq_core.evaluation.record import ExtractorInfo, ReferenceUsed
from tcaq_core.evaluation.spec import Evaluation


class EvaluationPlan(Data):
    """An evaluation with every default written out and every file named by its hash."""

    protocol: str
    changed: tuple[str, ...]
    metrics: tuple[Metric, ...]
    sampling: Sampling
    image_size: int | None
    num_images: int
    seed: int
    baseline: bool
    paired_images: int
    batch_size: int
    shard_images: int
    keep_images: bool
    extractor: ExtractorInfo | None
    reference: ReferenceUsed | None

    @property
    def num_shards(self) -> int:
        """How many claimable pieces each subject's images come in."""
        return -(-self.num_images // self.shard_images)

    def images_of(self, shard: int) -> range:
        """Return the indices of a shard's images."""
        start = shard * self.shard_images
        return range(start, min(start + self.shard_images, self.num_images))

    def digest(self) -> str:
        """Return ``sha256:<hex>`` of the canonical JSON."""
        return f"sha256:{hashlib.sha256(self.model_dump_json().encode()).hexdigest()}"

    def decides_shards(self) -> dict[str, Any]:
        """Return, as JSON, what decides the bytes of a subject's shards, and no more.

        Two evaluations that differ in anything else share them: another reference,
        another metric of the same features.
        """
        kept = {
            "sampling",
            "num_images",
            "seed",
            "batch_size",
            "shard_images",
            "keep_images",
            "extractor",
        }
        wanted = set(self.metrics)
        return self.model_dump(mode="json", include=kept) | {
            "paired_images": self.paired_images if self.baseline else 0,
            "spatial": bool(wanted & SPATIAL_METRICS),
            "logits": bool(wanted & LOGIT_METRICS),
        }

    def shard_set_digest(
        self, subject: Mapping[str, Any], environment_digest: str
    ) -> str:
        """Return the hex SHA-256 that names a subject's shards: of all they depend on.

        `subject` names the model or checkpoint by its hashes.
        """
        parts = {
            "subject": dict(subject),
            "plan": self.decides_shards(),
            "environment": environment_digest,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def resolve_evaluation(
    asked: Evaluation,
    *,
    extractor: ExtractorInfo | None,
    reference: ReferenceUsed | None,
) -> EvaluationPlan:
    """Return the plan of a request, given the files that its names stand for.

    The caller has looked up `asked.network` and `asked.compared_with`;
    `check_plan` says whether they fit together.
    """
    protocol = PROTOCOLS[asked.protocol]
    num_images = asked.num_images or protocol.num_images
    if set(asked.wanted) <= PAIRED_METRICS:
        # Nobody looks at the others.
        num_images = min(num_images, asked.paired_images)
    sampling = protocol.sampling
    if asked.num_steps is not None:
        sampling = sampling.model_copy(update={"num_steps": asked.num_steps})
    return EvaluationPlan(
        protocol=protocol.name,
        changed=_changed(asked, protocol, extractor),
        metrics=asked.wanted,
        sampling=sampling,
        image_size=protocol.image_size,
        num_images=num_images,
        seed=asked.seed,
        baseline=asked.baseline,
        paired_images=min(asked.paired_images, num_images),
        batch_size=asked.batch_size,
        shard_images=asked.shard_images,
        keep_images=asked.keep_images,
        extractor=extractor,
        reference=reference,
    )


def _changed(
    asked: Evaluation, protocol: Protocol, extractor: ExtractorInfo | None
) -> tuple[str, ...]:
    pairs: dict[str, tuple[Any, Any]] = {
        "num_images": (asked.num_images, protocol.num_images),
        "num_steps": (asked.num_steps, protocol.sampling.num_steps),
    }
    # What no metric uses changes nothing.
    if asked.network is not None:
        pairs["extractor"] = (asked.extractor, protocol.extractor)
    if asked.compared_with is not None:
        pairs["reference"] = (asked.reference, protocol.reference)
    found = [
        name
        for name, (given, usual) in pairs.items()
        if given is not None and given != usual
    ]
    if extractor is not None and extractor.dtype != "float32":
        found.append("extractor_dtype")
    return tuple(found)

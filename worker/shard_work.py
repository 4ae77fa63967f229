"""What a worker does for one shard: draw its images, keep their features."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkstemp
from time import perf_counter
from typing import Any

from pydantic import BaseModel

from tcaq_core.evaluation import shard
from tcaq_core.evaluation.extractor_folder import fetch_extractor
from tcaq_core.evaluation.extractors import load_extractor
from tcaq_core.evaluation.features import Extractor
from tcaq_core.evaluation.image_tar import image_tar
from tcaq_core.evaluation.plan import EvaluationPlan
from tcaq_core.evaluation.record import ExtractorInfo
from tcaq_core.evaluation.shard import Keep
from worker.context import Context
from worker.shards import Made, Make, Tick
from worker.subjects import Sha256, Subject, load_subject


class ShardRequest(BaseModel, frozen=True, extra="forbid"):
    """Everything that a shard set's bytes depend on: its digest names the set."""

    subject: Subject
    plan: EvaluationPlan
    environment_digest: Sha256

    def digest(self) -> str:
        """Return the hex SHA-256 that names the set."""
        return self.plan.shard_set_digest(
            self.subject.model_dump(mode="json"), self.environment_digest
        )


def make_shard(context: Context) -> Make:
    """Return the function that makes one shard of any set in this process."""

    def make(request: dict[str, Any], number: int, tick: Tick) -> Made:
        asked = ShardRequest.model_validate(request)
        began = perf_counter()
        loaded = load_subject(asked.subject, context)
        network = asked.plan.extractor
        extractor = None if network is None else extractor_of(network, context)
        with _tar(context, wanted=asked.plan.keep_images) as (images, keep):
            features = shard.make_shard(
                loaded.pipeline, extractor, asked.plan, number, tick=tick, keep=keep
            )
        return Made(features, images, perf_counter() - began)

    return make


@contextmanager
def _tar(
    context: Context, *, wanted: bool
) -> Iterator[tuple[Path | None, Keep | None]]:
    """Give a tar to be and what adds to it; it is deleted if the work fails."""
    if not wanted:
        yield None, None
        return
    descriptor, name = mkstemp(prefix="shard-", suffix=".tar", dir=context.scratch)
    os.close(descriptor)
    path = Path(name)
    try:
        with image_tar(path) as keep:
            yield path, keep
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def extractor_of(info: ExtractorInfo, context: Context) -> Extractor:
    """Return a feature network, ready to use.

    Raises:
        ExtractorUnavailable: its weights are not here, or are others.
    """

    def load() -> Extractor:
        settings = context.settings
        path = fetch_extractor(
            info.name,
            directory=settings.evaluation_directory / "extractors",
            inception_weights=settings.inception_weights,
            cache=settings.data_directory / "cache" / "extractors",
        )
        return load_extractor(
            path, device=context.device, dtype=info.dtype, expected=info
        )

    return context.extractors.get(info.model_dump_json(), load)

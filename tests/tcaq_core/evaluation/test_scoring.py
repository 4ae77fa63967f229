from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import linalg  # type: ignore[import-untyped]

from tcaq_core.diffusion import Pipeline, load_pipeline
from tcaq_core.errors import EvaluationFailed, Interrupted, ReferenceUnusable
from tcaq_core.evaluation.frechet import Gaussian
from tcaq_core.evaluation.moments import FeatureMoments
from tcaq_core.evaluation.plan import EvaluationPlan
from tcaq_core.evaluation.record import ReferenceInfo, ReferenceUsed, ScoreRecord
from tcaq_core.evaluation.reference import Reference
from tcaq_core.evaluation.scoring import Scored, score
from tcaq_core.evaluation.shard import Subject, make_shard
from tests.tcaq_core.evaluation.plans import RandomNetwork, make_plan

METRICS = (
    "fd",
    "sfd",
    "kd",
    "cs",
    "precision",
    "recall",
    "psnr_db",
    "feature_distance",
)
NUM_IMAGES = 48


def _nothing() -> None:
    pass


def _plan(**changes: object) -> EvaluationPlan:
    values = {"metrics": METRICS, "num_images": NUM_IMAGES, "shard_images": 16}
    sizes = {"batch_size": 4, "paired_images": 10}
    return make_plan(**(values | sizes | changes))


def _subject(folder: Path, pipeline: Pipeline, plan: EvaluationPlan) -> Subject:
    folder.mkdir()
    paths = []
    for number in range(plan.num_shards):
        paths.append(folder / f"{number}.safetensors")
        paths[-1].write_bytes(
            make_shard(pipeline, RandomNetwork(), plan, number, tick=_nothing)
        )
    return Subject(tuple(paths))


def _reference(subject: Subject) -> Reference:
    # Any images do as a reference: another seed's of the same model.
    info = ReferenceInfo(
        name="others",
        n=NUM_IMAGES,
        image_size=(8, 8),
        images_sha256="1" * 64,
        extractor=RandomNetwork().info,
        has_spatial=True,
        has_features=True,
    )
    every = torch.arange(NUM_IMAGES)
    pooled, spatial = (
        Gaussian.of(FeatureMoments.of(subject.features(name).rows(every)))
        for name in ("pooled", "spatial")
    )
    used = ReferenceUsed(stats_sha256="2" * 64, info=info)
    return Reference(used, pooled, spatial, subject.features("pooled"))


@dataclass(frozen=True)
class World:
    """A model, the same quantized, and a reference, as files."""

    folder: Path
    changed: Pipeline
    scored: Scored

    def scores(self, **changes: object) -> dict[str, ScoreRecord]:
        return _scores(replace(self.scored, **changes))  # type: ignore[arg-type] # by name


def _scores(
    scored: Scored, *, tick: Callable[[], None] = _nothing
) -> dict[str, ScoreRecord]:
    records = score(
        scored, execution="simulated", environment_digest="3" * 64, tick=tick
    )
    return {record.metric: record for record in records}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> World:
    folder = tmp_path_factory.mktemp("world")
    pipeline = load_pipeline(tiny_folder, device=torch.device("cpu"))
    plan = _plan()
    baseline = _subject(folder / "baseline", pipeline, plan)
    reference = _reference(_subject(folder / "reference", pipeline, _plan(seed=10_000)))
    # Not quite the same model: what a quantization makes of it.
    with torch.no_grad():
        pipeline.denoiser.conv_out.weight.mul_(0.9)
    images = _subject(folder / "images", pipeline, plan)
    plan = plan.model_copy(update={"reference": reference.used})
    return World(folder, pipeline, Scored(plan, images, baseline, reference))


def test_every_metric_has_a_record_with_an_interval_around_its_value(
    world: World,
) -> None:
    found = world.scores()
    assert tuple(found) == METRICS
    for record in found.values():
        assert record.value is not None
        if record.metric != "kd":  # one subset of 48 images has no spread
            assert record.ci95 is not None
            assert record.ci95[0] <= record.value <= record.ci95[1]


def test_the_frechet_distance_is_the_one_of_all_features_at_once(world: World) -> None:
    every = torch.arange(NUM_IMAGES)
    generated, real = (
        rows.rows(every).double().numpy()
        for rows in (world.scored.images.features("pooled"), world.scored.features)
    )
    root = linalg.sqrtm(np.cov(generated.T) @ np.cov(real.T)).real
    gap = ((generated.mean(0) - real.mean(0)) ** 2).sum()
    traces = np.trace(np.cov(generated.T) + np.cov(real.T) - 2 * root)
    assert world.scores()["fd"].value == pytest.approx(gap + traces, rel=1e-6)


def test_the_scores_do_not_depend_on_how_images_were_shared_out(
    world: World,
) -> None:
    metrics = {"metrics": METRICS[:6]}
    plan = world.scored.plan.model_copy(update=metrics)
    other = plan.model_copy(update={"shard_images": 24})
    images = _subject(world.folder / "by-24", world.changed, other)
    moved = world.scores(plan=other, images=images, baseline=None)
    assert moved == world.scores(plan=plan, baseline=None)


def test_the_difference_to_the_baseline_is_paired(world: World) -> None:
    record = world.scores()["fd"]
    alone = world.scores(images=world.scored.baseline)["fd"]
    beside = record.baseline
    assert beside is not None
    assert beside.value == alone.value
    assert record.value is not None
    assert beside.delta == record.value - beside.value
    assert beside.delta_ci95 is not None
    assert record.ci95 is not None
    # Same noise, same groups left out: what moves both cancels.
    width = beside.delta_ci95[1] - beside.delta_ci95[0]
    assert width < (record.ci95[1] - record.ci95[0]) / 2


def test_a_model_against_itself_differs_in_nothing(world: World) -> None:
    found = world.scores(images=world.scored.baseline)
    beside = found["fd"].baseline
    assert beside is not None
    assert (beside.delta, beside.delta_ci95) == (0.0, (0.0, 0.0))
    assert found["psnr_db"].value is None  # infinite
    assert found["feature_distance"].value == 0.0


def test_a_record_says_what_the_value_depends_on(world: World) -> None:
    found = world.scores()
    assert found["fd"].label == "FD-random-convolution"
    assert found["psnr_db"].label == "psnr_db"
    assert found["fd"].reference == world.scored.plan.reference
    assert found["psnr_db"].reference is None
    assert found["cs"].reference is None
    assert (found["fd"].n_generated, found["psnr_db"].n_generated) == (NUM_IMAGES, 10)
    assert found["fd"].seeds.base == 3
    assert found["fd"].sampler.name == "ddim"
    assert "biased upwards" in found["fd"].notes[0]
    assert found["psnr_db"].baseline is None


def test_without_a_baseline_nothing_is_compared(world: World) -> None:
    plan = world.scored.plan.model_copy(update={"metrics": ("fd", "cs")})
    found = world.scores(plan=plan, baseline=None)
    assert [record.baseline for record in found.values()] == [None, None]


def test_too_few_images_for_an_interval_are_said_so(
    world: World, pipeline: Pipeline
) -> None:
    plan = _plan(num_images=7, metrics=("fd",))
    images = _subject(world.folder / "seven", pipeline, plan)
    record = world.scores(plan=plan, images=images, baseline=None)["fd"]
    assert record.value is not None
    assert record.ci95 is None
    assert "No interval" in record.notes[0]


def test_too_few_images_for_a_covariance_are_refused(
    world: World, pipeline: Pipeline
) -> None:
    plan = _plan(num_images=6, metrics=("fd",))
    images = _subject(world.folder / "six", pipeline, plan)
    with pytest.raises(EvaluationFailed, match="too few"):
        world.scores(plan=plan, images=images, baseline=None)


@pytest.mark.parametrize("metric", ["kd", "precision"])
def test_a_reference_without_features_is_refused(world: World, metric: str) -> None:
    assert world.scored.reference is not None
    bare = replace(world.scored.reference, features=None, spatial=None)
    plan = world.scored.plan.model_copy(update={"metrics": (metric,)})
    with pytest.raises(ReferenceUnusable, match="features of each image"):
        world.scores(plan=plan, reference=bare)


def test_scoring_can_be_interrupted(world: World) -> None:
    def tick() -> None:
        raise Interrupted("Stop.", hint="Nothing to do.")

    with pytest.raises(Interrupted):
        _scores(world.scored, tick=tick)


def test_differences_of_splits_are_paired_too(world: World) -> None:
    record = world.scores()["cs"]
    assert record.ci95 is not None
    assert record.baseline is not None
    low, high = record.baseline.delta_ci95 or (0.0, 0.0)
    assert low < record.baseline.delta < high
    # The classes of the same noise go up and down together.
    assert high - low < record.ci95[1] - record.ci95[0]


def test_a_record_names_what_drew_the_images(world: World) -> None:
    images = replace(world.scored.images, identity={"checkpoint": "4" * 64})
    assert world.scored.baseline is not None
    baseline = replace(world.scored.baseline, identity={"model": "5" * 64})
    record = world.scores(images=images, baseline=baseline)["fd"]
    assert record.images.subject == {"checkpoint": "4" * 64}
    assert record.images.batch_size == 4
    assert record.baseline is not None
    assert record.baseline.subject == {"model": "5" * 64}
    assert record.baseline.manifest_sha256 == baseline.manifest_sha256()
    assert record.baseline.manifest_sha256 != record.images.manifest_sha256

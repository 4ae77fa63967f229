import io
import tarfile
from dataclasses import replace
from typing import Any

import pytest
from safetensors.torch import load
from sqlalchemy import select

from jobs import shards
from jobs.artifacts import LocalStore
from jobs.models import Artifact, ShardSet
from tcaq_core.evaluation.record import ScoreRecord
from tests.extractors import NAME
from tests.worker.scene import IMAGES, METRICS, Scene, make_scene
from worker.clock import utc_now
from worker.context import Context
from worker.shard_work import make_shard
from worker.shards import help_once

__all__ = ["make_scene"]


def _scores(result: dict[str, Any]) -> dict[str, ScoreRecord]:
    records = map(ScoreRecord.model_validate, result["evaluation"]["scores"])
    return {record.metric: record for record in records}


def test_a_checkpoint_is_scored_beside_its_model(scene: Scene) -> None:
    result = scene.evaluate()
    scores = _scores(result)
    assert tuple(scores) == METRICS
    assert scores["fd"].label == f"FD-{NAME}"
    assert scores["fd"].baseline is not None
    assert scores["fd"].execution == result["execution"] == "integer"
    assert scores["psnr_db"].value is not None
    # 24 images of each of the two, eight in a shard.
    assert result["evaluation"]["shards"]["count"] == 6
    assert result["evaluation"]["images"] is None


def test_the_same_job_gives_the_same_scores(scene: Scene) -> None:
    first, again = scene.evaluate(), scene.evaluate()
    assert first["evaluation"]["scores"] == again["evaluation"]["scores"]


def test_what_is_drawn_already_is_not_drawn_again(scene: Scene) -> None:
    began = scene.evaluate()["evaluation"]["shards"]["seconds"]
    # Another metric of the same features: every shard is there.
    again = scene.evaluate(metrics=("fd", "psnr_db"))["evaluation"]["shards"]
    assert again["seconds"] == began


def test_a_model_is_scored_alone(scene: Scene) -> None:
    plan = scene.plan(metrics=("fd", "cs"), baseline=False)
    job = scene.run({"target": {"model": "tiny"}, "plan": plan.model_dump(mode="json")})
    assert job.result is not None, job.error
    scores = _scores(job.result)
    assert [record.baseline for record in scores.values()] == [None, None]
    assert scores["fd"].execution == "full-precision"


def test_the_baselines_value_is_the_models_own(scene: Scene) -> None:
    beside = _scores(scene.evaluate())["fd"].baseline
    plan = scene.plan(metrics=("fd",), baseline=False)
    job = scene.run({"target": {"model": "tiny"}, "plan": plan.model_dump(mode="json")})
    assert job.result is not None
    assert beside is not None
    assert beside.value == _scores(job.result)["fd"].value


def test_images_are_kept_when_asked_for(scene: Scene) -> None:
    result = scene.evaluate(keep_images=True)
    listed = result["evaluation"]["images"]
    assert [item["name"] for item in listed] == [
        *[f"images/{number}" for number in range(3)],
        *[f"baseline-images/{number}" for number in range(3)],
    ]
    names: list[str] = []
    for item in listed[:3]:
        with (
            scene.context.store.open(item["sha256"]) as stored,
            tarfile.open(fileobj=io.BytesIO(stored.read())) as tar,
        ):
            names += tar.getnames()
    assert names == [f"{index:06d}.png" for index in range(IMAGES)]
    assert not list(scene.context.scratch.iterdir())


def test_who_helps_changes_nothing(scene: Scene) -> None:
    alone = scene.evaluate(seed=1)
    plan = scene.plan(seed=1)
    with scene.context.sessions.begin() as session:
        for digest in shards.unused_sets(session, older_than=utc_now()):
            shards.delete_set(session, digest)
    helped: list[int] = []

    def make(request: dict[str, Any], number: int, tick: Any) -> Any:  # noqa: ANN401
        made = make_shard(scene.context)(request, number, tick)
        if not helped:
            # While the job holds this shard, a helper makes another of the set.
            helped.append(number)
            digest = _running_set(scene.context)
            assert help_once(
                digest, _as_other(scene.context), make_shard(scene.context)
            )
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worker.drawing.make_shard", lambda _context: make)
        job = scene.run(
            {
                "target": {"checkpoint": scene.made},
                "plan": plan.model_dump(mode="json"),
            }
        )
    assert job.result is not None, job.error
    assert helped
    assert job.result["evaluation"]["scores"] == alone["evaluation"]["scores"]


def _running_set(context: Context) -> str:
    with context.sessions() as session:
        held = [
            digest
            for digest in session.scalars(select(ShardSet.digest)).all()
            if shards.tally(session, digest).held
        ]
    assert len(held) == 1
    return held[0]


def _as_other(context: Context) -> Context:
    return replace(context, owner="another:1")


def test_a_shard_whose_bytes_are_damaged_is_refused_and_made_anew(
    scene: Scene,
) -> None:
    first = scene.evaluate()
    store = scene.context.store
    assert isinstance(store, LocalStore)
    with scene.context.sessions() as session:
        digest = min(session.scalars(select(ShardSet.digest)))
        damaged = shards.results(session, digest)[0]
    path = store.path(damaged.sha256)
    assert path is not None
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    plan = scene.plan().model_dump(mode="json")
    job = scene.run({"target": {"checkpoint": scene.made}, "plan": plan})
    assert job.error is not None
    assert job.error["code"] == "artifact_corrupt"
    assert scene.evaluate()["evaluation"]["scores"] == first["evaluation"]["scores"]


def test_the_models_size_must_be_the_references(scene: Scene) -> None:
    plan = scene.plan().model_dump(mode="json")
    plan["reference"]["info"]["image_size"] = [16, 16]
    job = scene.run({"target": {"checkpoint": scene.made}, "plan": plan})
    assert job.error is not None
    assert job.error["code"] == "reference_unusable"


def test_features_hold_nothing_that_was_not_asked_for(scene: Scene) -> None:
    scene.evaluate(metrics=("psnr_db",))
    with scene.context.sessions() as session:
        (one, _) = session.scalars(select(ShardSet.digest))
        first = shards.results(session, one)[0]
    with scene.context.store.open(first.sha256) as stored:
        assert set(load(stored.read())) == {"image_sha256", "pixels"}


def test_kept_images_do_not_pass_for_a_checkpoint(scene: Scene) -> None:
    scene.evaluate(keep_images=True)
    with scene.context.sessions() as session:
        types = set(session.scalars(select(Artifact.media_type)))
    assert "application/vnd.tcaq.images+tar" in types

from typing import Any

from jobs.models import Job, JobKind
from tcaq_core.recipe import Recipe
from tests.factories import make_recipe
from tests.worker.scene import Scene, make_scene

__all__ = ["make_scene"]


def _quantize(scene: Scene, guards: dict[str, Any] | None) -> Job:
    plan = scene.plan(metrics=("psnr_db",)).model_dump(mode="json")
    return scene.run(
        {"plan": plan, "guards": guards},
        kind=JobKind.QUANTIZE,
        recipe=make_recipe(weight_bits=2),
    )


def _psnr(job: Job) -> float:
    assert job.result is not None, job.error
    (score,) = job.result["evaluation"]["scores"]
    return float(score["value"])


def test_a_quantization_is_scored_when_asked(scene: Scene) -> None:
    job = _quantize(scene, None)
    assert 1 < _psnr(job) < 60
    assert job.result is not None
    assert job.result["guards"] is None
    assert job.steps[-1]["name"] == "evaluate"


def test_guards_that_hold_change_nothing(scene: Scene) -> None:
    job = _quantize(scene, {"min_psnr_db": 0.5, "on_violation": "raise_bits"})
    plain = _quantize(scene, None)
    assert job.result is not None
    assert plain.result is not None
    assert job.result["guards"]["satisfied"]
    assert [item["changed"] for item in job.result["guards"]["rounds"]] == [None]
    assert job.result["checkpoint"] == plain.result["checkpoint"]


def test_a_violation_fails_the_job_and_says_by_how_much(scene: Scene) -> None:
    job = _quantize(scene, {"min_psnr_db": 90.0})
    assert job.error is not None
    assert job.error["code"] == "guard_violated"
    assert "min_psnr_db is 90, found" in job.error["detail"]
    # Without its guards the same job goes on from what was journalled.
    again = _quantize(scene, None)
    assert again.resumed_from is not None


def test_raised_bits_bring_the_images_nearer_and_stand_in_the_result(
    scene: Scene,
) -> None:
    before = _psnr(_quantize(scene, None))
    limit = before + 1.0
    job = _quantize(
        scene, {"min_psnr_db": limit, "on_violation": "raise_bits", "max_rounds": 4}
    )
    assert _psnr(job) >= limit
    assert job.result is not None
    first, *others = job.result["guards"]["rounds"]
    assert first["violations"]
    assert first["values"]["psnr_db"] == before
    last = others[-1]
    assert last["violations"] == []
    recipe = Recipe.model_validate(last["changed"]["recipe"])
    assert [recipe.bits_of(name) for name in last["changed"]["layers"]]
    loaded = scene.load(job.result["checkpoint"]["sha256"])
    assert loaded.manifest.recipe == recipe
    assert job.stage == "guard"


def test_what_no_round_repairs_is_a_failure_in_the_end(scene: Scene) -> None:
    job = _quantize(
        scene, {"min_psnr_db": 200.0, "on_violation": "skip_layers", "max_rounds": 1}
    )
    assert job.error is not None
    assert job.error["code"] == "guard_violated"
    assert "after 1 rounds of skip_layers" in job.error["detail"]

"""What a quantization has finished outlives a score that fails, and a late refusal."""

from pathlib import Path
from typing import Any

import pytest

from jobs.models import Job, JobKind
from jobs.status import JobStatus
from tcaq_core.errors import EvaluationFailed
from tests.factories import make_recipe
from tests.worker.scene import Scene, make_scene
from worker import guarded

__all__ = ["make_scene"]


def _quantize(scene: Scene, plan: dict[str, Any] | None) -> Job:
    recipe = make_recipe(weight_bits=2)
    return scene.run({"plan": plan}, kind=JobKind.QUANTIZE, recipe=recipe)


@pytest.mark.parametrize("error", [EvaluationFailed("NaN.", hint="No."), KeyError("x")])
def test_what_was_quantized_outlives_a_score_that_fails(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_given: Any) -> None:  # noqa: ANN401 - whatever comes
        raise error

    monkeypatch.setattr(guarded, "evaluate_checkpoint", refuse)
    plan = scene.plan(metrics=("psnr_db",)).model_dump(mode="json")
    assert _quantize(scene, plan).status == JobStatus.FAILED
    monkeypatch.undo()
    again = _quantize(scene, plan)
    assert again.status == JobStatus.SUCCEEDED, again.error
    assert again.resumed_from is not None
    assert not list(scene.context.settings.journals.iterdir())


def _lose(path: Path | None) -> None:
    assert path is not None
    path.unlink()


@pytest.mark.parametrize("kind", [JobKind.QUANTIZE, JobKind.EVALUATE, JobKind.SWEEP])
@pytest.mark.parametrize(
    ("lost", "code"),
    [("network", "extractor_unavailable"), ("reference", "artifact_not_found")],
)
def test_what_cannot_be_scored_is_refused_before_the_work_begins(
    scene: Scene, kind: JobKind, lost: str, code: str
) -> None:
    plan = scene.plan(metrics=("fd",))
    assert plan.reference is not None
    if lost == "network":
        (folder,) = scene.context.settings.evaluation_directory.glob("extractors/*")
        _lose(folder / "model.safetensors")
    else:
        _lose(scene.context.store.path(plan.reference.stats_sha256))
    request = {
        "target": {"checkpoint": scene.made},
        "settings": [{"weight_bits": 4, "activation_bits": 8, "softmax_bits": 8}],
        "recipes": ["rtn"],
        "plan": plan.model_dump(mode="json"),
    }
    job = scene.run(request, kind=kind, model="tiny")
    assert job.error is not None
    assert (job.error["code"], job.stage) == (code, "fetch")

import io
import json
from typing import Any

import pytest
from PIL import Image

from jobs import repository
from jobs.models import Job, JobKind
from jobs.status import JobStatus
from tcaq_core.errors import ExportFailed
from tests.factories import make_job, make_recipe
from tests.worker.scene import Scene, make_scene
from worker import guarded
from worker.clock import utc_now
from worker.quantize import quantize_once
from worker.run import run_job

__all__ = ["make_scene"]

SETTINGS = [
    {"weight_bits": 8, "activation_bits": 8, "softmax_bits": 8},
    {"weight_bits": 4, "activation_bits": 8, "softmax_bits": 8},
]
CALIBRATION = {"num_samples": 2, "num_steps": 3}


def _request(scene: Scene) -> dict[str, Any]:
    plan = scene.plan(metrics=("fd", "psnr_db"))
    return {
        "settings": SETTINGS,
        "recipes": ["rtn"],
        "calibration": CALIBRATION,
        "plan": plan.model_dump(mode="json"),
    }


def _sweep(scene: Scene) -> Job:
    return scene.run(_request(scene), kind=JobKind.SWEEP, model="tiny")


def _document(scene: Scene, sha256: str) -> Any:  # noqa: ANN401 - JSON
    with scene.context.store.open(sha256) as stored:
        return json.load(stored)


def test_a_sweep_is_one_table_of_all_points(scene: Scene) -> None:
    job = _sweep(scene)
    assert job.result is not None, job.error
    points = job.result["points"]
    assert [(point["weight_bits"], point["recipe"]) for point in points] == [
        (8, "rtn"),
        (4, "rtn"),
    ]
    assert points[1]["bytes"] < points[0]["bytes"] < job.result["baseline"]["bytes"]
    # Smaller and nothing else beats it there; nearer and nothing else beats that.
    assert [point["on_front"] for point in points] == [True, True]
    psnr = [
        score["value"]
        for point in points
        for score in point["scores"]
        if score["metric"] == "psnr_db"
    ]
    assert psnr[0] > psnr[1]
    assert _document(scene, job.result["pareto"]["sha256"])["points"] == points
    with scene.context.store.open(job.result["picture"]["sha256"]) as stored:
        assert Image.open(io.BytesIO(stored.read())).format == "PNG"


def test_a_points_checkpoint_is_the_one_of_a_job_of_its_own(scene: Scene) -> None:
    # `finished` is a quantization with this very recipe and calibration.
    job = _sweep(scene)
    assert job.result is not None, job.error
    assert job.result["points"][1]["checkpoint"]["sha256"] == scene.made
    assert scene.quantized.recipe_digest == make_recipe().digest()
    assert job.result["points"][1]["recipe_digest"] == make_recipe().digest()


def test_everything_that_was_made_can_be_fetched(scene: Scene) -> None:
    job = _sweep(scene)
    with scene.context.sessions() as session:
        made = repository.job_artifacts(session, job.id)
    assert {"checkpoint/0", "checkpoint/1", "pareto.json", "pareto.png"} <= set(made)
    assert all(scene.context.store.exists(one.sha256) for one in made.values())


def test_what_is_finished_is_not_done_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = _sweep(scene)
    made: list[int] = []

    def once(*given: Any, **named: Any) -> Any:  # noqa: ANN401 - passed on
        made.append(len(made))
        if len(made) == 2:
            # As a worker that is told to exit in the middle of the second point.
            raise SystemExit
        return quantize_once(*given, **named)

    monkeypatch.setattr(guarded, "quantize_once", once)
    with scene.context.sessions.begin() as session:
        job_id = make_job(
            session, kind=JobKind.SWEEP, request=_request(scene), now=utc_now()
        ).id
    with pytest.raises(SystemExit):
        run_job(job_id, scene.context)
    with scene.context.sessions() as session:
        stopped = repository.get(session, job_id)
    assert stopped.status == JobStatus.QUEUED
    assert stopped.result is not None
    assert len(stopped.result["rows"]) == 1
    run_job(job_id, scene.context)
    with scene.context.sessions() as session:
        job = repository.get(session, job_id)
    assert len(made) == 3  # the first point, the second cut off, the second again
    assert job.result is not None, job.error
    assert undisturbed.result is not None
    for ours, theirs in zip(
        job.result["points"], undisturbed.result["points"], strict=True
    ):
        assert ours["checkpoint"] == theirs["checkpoint"]
        assert ours["scores"] == theirs["scores"]


def test_a_failure_in_a_point_is_the_sweeps(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_given: Any, **_named: Any) -> None:  # noqa: ANN401 - whatever comes
        raise ExportFailed("No.", hint="Never.")

    monkeypatch.setattr(guarded, "quantize_once", refuse)
    job = _sweep(scene)
    assert job.error is not None
    assert job.error["code"] == "export_failed"

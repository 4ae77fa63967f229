from typing import Any

import pytest
from starlette.testclient import TestClient

from jobs.artifacts import LocalStore
from jobs.settings import Settings
from tcaq_core.evaluation.record import ScoreRecord
from tests.service import ledger
from tests.service.evaluations import QUICK, network, score
from tests.service.ledger import Sessions
from tests.service.models import W4A8
from tests.service.refusals import EVALUATE, SWEEP


@pytest.fixture
def records(settings: Settings) -> list[dict[str, Any]]:
    """Return a Frechet distance, and a PSNR that is infinite."""
    extractor = network(settings.evaluation_directory)
    infinite = {"metric": "psnr_db", "label": "psnr_db", "value": None, "ci95": None}
    return [
        score(extractor),
        score(extractor, **infinite, baseline=None, notes=[]),
    ]


def submit(client: TestClient, body: dict[str, Any]) -> str:
    response = client.post("/jobs", json=body)
    assert response.status_code == 202, response.text
    return str(response.json()["id"])


def evaluated(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what a worker writes of an evaluation."""
    return {
        "plan_digest": "sha256:" + "e" * 64,
        "protocol": "quick",
        "scores": records,
        "images": None,
        "shards": {"count": 1, "seconds": 2.5},
    }


def test_the_scores_of_an_evaluation_are_listed_as_they_were_written(
    client: TestClient, sessions: Sessions, records: list[dict[str, Any]]
) -> None:
    job_id = submit(client, EVALUATE)
    ledger.end(sessions, job_id, {"evaluation": evaluated(records)})
    job = client.get(f"/jobs/{job_id}").json()
    assert job["urls"]["scores"] == f"/jobs/{job_id}/scores"
    listed = client.get(job["urls"]["scores"])
    assert listed.status_code == 200
    assert listed.json() == {"object": "list", "data": records}
    assert [ScoreRecord.model_validate(item).metric for item in listed.json()["data"]]


def test_a_score_is_a_metric_beside_its_baseline_and_the_difference(
    client: TestClient, sessions: Sessions, records: list[dict[str, Any]]
) -> None:
    job_id = submit(client, EVALUATE)
    assert client.get(f"/jobs/{job_id}").json()["metrics"] == {}
    ledger.end(sessions, job_id, {"evaluation": evaluated(records)})
    # What is infinite is no number, and no metric.
    assert client.get(f"/jobs/{job_id}").json()["metrics"] == {
        "fd": 12.5,
        "fd_baseline": 10.25,
        "fd_delta": 2.25,
    }


def test_a_quantization_has_the_metrics_of_both(
    client: TestClient,
    sessions: Sessions,
    store: LocalStore,
    records: list[dict[str, Any]],
) -> None:
    job_id = submit(client, W4A8 | {"evaluation": QUICK})
    rounds = [{"changed": {}, "values": {"fd": 12.5}}]
    more = {
        "evaluation": evaluated(records),
        "guards": {"satisfied": True, "rounds": rounds},
    }
    ledger.succeed(sessions, store, job_id, more=more)
    job = client.get(f"/jobs/{job_id}").json()
    assert job["metrics"]["fd_delta"] == 2.25
    assert job["metrics"]["compression_ratio"] == 6.5
    assert job["urls"]["checkpoint"] == f"/jobs/{job_id}/checkpoint"
    assert job["urls"]["scores"] == f"/jobs/{job_id}/scores"
    assert client.get(job["urls"]["scores"]).json()["data"] == records


def test_scores_are_not_there_before_the_job_has_succeeded(
    client: TestClient, sessions: Sessions
) -> None:
    job_id = submit(client, W4A8 | {"evaluation": QUICK})
    assert client.get(f"/jobs/{job_id}").json()["urls"]["scores"] is None
    queued = client.get(f"/jobs/{job_id}/scores")
    ledger.claim(sessions, job_id)
    for response in (queued, client.get(f"/jobs/{job_id}/scores")):
        assert (response.status_code, response.json()["code"]) == (409, "job_not_ready")


def test_a_job_without_an_evaluation_never_has_scores(
    client: TestClient, sessions: Sessions, store: LocalStore, job_id: str
) -> None:
    queued = client.get(f"/jobs/{job_id}/scores")
    ledger.succeed(sessions, store, job_id)
    for response in (queued, client.get(f"/jobs/{job_id}/scores")):
        assert (response.status_code, response.json()["code"]) == (
            404,
            "artifact_not_found",
        )
        assert '"evaluation"' in response.json()["hint"]
    assert client.get(f"/jobs/{job_id}").json()["urls"]["scores"] is None


def test_a_sweep_has_a_table_and_its_picture_and_no_scores_of_its_own(
    client: TestClient,
    sessions: Sessions,
    store: LocalStore,
    records: list[dict[str, Any]],
) -> None:
    job_id = submit(client, SWEEP)
    pending = client.get(f"/jobs/{job_id}").json()["urls"]
    assert [pending[key] for key in ("pareto", "pareto_picture")] == [None, None]
    table = store.put_bytes(b'{"points": []}', media_type="application/json")
    picture = store.put_bytes(ledger.PICTURE, media_type="image/png")
    checkpoint = store.put_bytes(ledger.CHECKPOINT, media_type="application/x-tar")
    point = {"checkpoint": {"sha256": checkpoint.sha256}, "scores": records}
    result = {
        "points": [point],
        "pareto": {"sha256": table.sha256, "size_bytes": table.size_bytes},
        "picture": {"sha256": picture.sha256, "size_bytes": picture.size_bytes},
    }
    made = {"pareto": table, "pareto.png": picture, "checkpoint/0": checkpoint}
    ledger.end(sessions, job_id, result, made)
    job = client.get(f"/jobs/{job_id}").json()
    assert client.get(job["urls"]["pareto"]).json() == {"points": []}
    drawn = client.get(job["urls"]["pareto_picture"])
    assert drawn.headers["Content-Type"] == "image/png"
    assert drawn.content == ledger.PICTURE
    assert job["urls"]["scores"] is None
    assert client.get(f"/jobs/{job_id}/scores").status_code == 404
    assert job["metrics"] == {}
    sample = {"target": {"checkpoint": checkpoint.sha256}}
    answer = client.post("/sample", json=sample, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202


@pytest.mark.parametrize("body", [EVALUATE, SWEEP], ids=["evaluate", "sweep"])
@pytest.mark.parametrize("what", ["checkpoint", "report", "onnx"])
def test_only_a_quantization_has_a_checkpoint_of_its_own(
    client: TestClient, sessions: Sessions, body: dict[str, Any], what: str
) -> None:
    job_id = submit(client, body)
    ledger.end(sessions, job_id, {})
    response = client.get(f"/jobs/{job_id}/{what}")
    assert (response.status_code, response.json()["code"]) == (
        404,
        "artifact_not_found",
    )
    assert f"the kind {body['kind']}" in response.json()["detail"]
    assert client.get(f"/jobs/{job_id}").json()["urls"][what] is None


@pytest.mark.parametrize("body", [EVALUATE, SWEEP], ids=["evaluate", "sweep"])
def test_another_kind_of_job_is_no_target(
    client: TestClient, sessions: Sessions, body: dict[str, Any]
) -> None:
    job_id = submit(client, body)
    ledger.end(sessions, job_id, {})
    target = {"target": {"job_id": job_id}}
    for path, asked in (("/sample", target), ("/jobs", EVALUATE | target)):
        response = client.post(path, json=asked)
        assert (response.status_code, response.json()["code"]) == (404, "job_not_found")
        assert response.json()["errors"][0]["pointer"] == "/target/job_id"
        assert "sha256" in response.json()["hint"]


@pytest.mark.parametrize("body", [EVALUATE, SWEEP], ids=["evaluate", "sweep"])
def test_every_kind_of_job_can_be_cancelled(
    client: TestClient, body: dict[str, Any]
) -> None:
    job_id = submit(client, body)
    assert client.post(f"/jobs/{job_id}/cancel").json()["status"] == "cancelled"


def test_a_sample_has_no_scores(client: TestClient, sessions: Sessions) -> None:
    body = {"target": {"model": "tiny"}}
    client.post("/sample", json=body, headers={"Prefer": "respond-async"})
    (sample_id,) = ledger.sample_ids(sessions)
    response = client.get(f"/jobs/{sample_id}/scores")
    assert (response.status_code, response.json()["code"]) == (404, "job_not_found")

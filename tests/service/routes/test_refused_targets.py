from typing import Any

import pytest
from starlette.testclient import TestClient

from jobs.artifacts import LocalStore
from jobs.settings import Settings
from tests.service import ledger
from tests.service.evaluations import QUICK, make_network
from tests.service.ledger import Sessions
from tests.service.models import make_pickled_model
from tests.service.refusals import refused


@pytest.mark.parametrize(
    ("change", "pointer", "code"),
    [
        ({"target": {}}, "/target", "request_invalid"),
        ({"target": {"model": "tiny", "job_id": "x"}}, "/target", "request_invalid"),
        ({"target": {"model": "none"}}, "/target/model", "model_not_found"),
        ({"target": {"model": "pickled"}}, "/target/model", "checkpoint_unsafe"),
        (
            {"target": {"job_id": "job_" + "0" * 32}},
            "/target/job_id",
            "job_not_found",
        ),
        (
            {"target": {"checkpoint": "0" * 64}},
            "/target/checkpoint",
            "artifact_not_found",
        ),
        ({"execution": "integer"}, "/execution", "request_invalid"),
        ({"execution": "int8"}, "/execution", "request_invalid"),
        ({"model": "tiny"}, "/model", "request_invalid"),
        ({"guards": {"min_psnr_db": 1}}, "/guards", "request_invalid"),
        (
            {"evaluation": QUICK | {"metrics": ["fd", "ssim"]}},
            "/evaluation/metrics",
            "request_invalid",
        ),
    ],
)
def test_a_target_that_cannot_be_evaluated_is_refused(
    client: TestClient,
    settings: Settings,
    change: dict[str, Any],
    pointer: str,
    code: str,
) -> None:
    make_pickled_model(settings.models_directory / "pickled")
    body = {"kind": "evaluate", "target": {"model": "tiny"}, "evaluation": QUICK}
    problem = refused(client, body | change)
    assert (problem["pointer"], problem["code"]) == (pointer, code)


def test_a_missing_target_is_named(client: TestClient) -> None:
    problem = refused(client, {"kind": "evaluate"})
    assert (problem["pointer"], problem["error"]["code"]) == ("/target", "missing")


def test_a_metric_against_itself_is_refused_with_a_reason(client: TestClient) -> None:
    body = {
        "kind": "evaluate",
        "target": {"model": "tiny"},
        "evaluation": {"protocol": "quick", "metrics": ["psnr_db"]},
    }
    problem = refused(client, body)
    assert "['psnr_db']" in problem["detail"]
    assert "checkpoint" in problem["hint"]


def test_a_job_that_has_not_succeeded_is_no_target(
    client: TestClient, sessions: Sessions, job_id: str
) -> None:
    body = {"kind": "evaluate", "target": {"job_id": job_id}, "evaluation": QUICK}
    response = client.post("/jobs", json=body)
    assert (response.status_code, response.json()["code"]) == (409, "job_not_ready")
    assert response.json()["errors"][0]["pointer"] == "/target/job_id"
    assert job_id in response.json()["hint"]


def test_a_checkpoint_of_a_model_of_another_size_is_refused(
    client: TestClient,
    sessions: Sessions,
    store: LocalStore,
    settings: Settings,
    job_id: str,
) -> None:
    ledger.succeed(sessions, store, job_id)
    folder = settings.evaluation_directory
    make_network(folder / "extractors" / "wide-net", image_size=32)
    evaluation = {"extractor": "wide-net", "metrics": ["feature_distance"]}
    target = {"job_id": job_id}
    body = {"kind": "evaluate", "target": target, "evaluation": evaluation}
    response = client.post("/jobs", json=body)
    assert (response.status_code, response.json()["code"]) == (422, "evaluation_failed")
    assert response.json()["errors"][0]["pointer"] == "/evaluation/extractor"

from typing import Any

import pytest
from starlette.testclient import TestClient

from jobs.artifacts import LocalStore
from jobs.settings import Settings
from service.app import create_app
from tests.service import ledger
from tests.service.ledger import Sessions
from tests.service.models import make_pickled_model

BODY: dict[str, Any] = {"target": {"model": "tiny"}, "n": 1}
ASYNC = {"Prefer": "respond-async"}


def test_an_image_is_not_a_checkpoint(
    client: TestClient, sessions: Sessions, store: LocalStore
) -> None:
    location = client.post("/sample", json=BODY, headers=ASYNC).headers["Location"]
    grid = ledger.succeed_sample(sessions, store, location.rpartition("/")[2])
    response = client.post("/sample", json={"target": {"checkpoint": grid}})
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/target/checkpoint"


@pytest.mark.parametrize(
    ("target", "status", "pointer", "code"),
    [
        ({"job_id": "job_" + "0" * 32}, 404, "/target/job_id", "job_not_found"),
        ({"job_id": "../x"}, 404, "/target/job_id", "job_not_found"),
        ({"checkpoint": "0" * 64}, 404, "/target/checkpoint", "artifact_not_found"),
        ({"checkpoint": "../x"}, 422, "/target/checkpoint", "request_invalid"),
        ({"model": "../tiny"}, 404, "/target/model", "model_not_found"),
        ({"model": "pickled"}, 422, "/target/model", "checkpoint_unsafe"),
        ({}, 422, "/target", "request_invalid"),
        ({"model": "tiny", "job_id": "x"}, 422, "/target", "request_invalid"),
        ({"name": "tiny"}, 422, "/target/name", "request_invalid"),
    ],
)
def test_a_target_that_cannot_be_sampled_is_refused_before_anything_is_queued(
    client: TestClient,
    settings: Settings,
    *,
    target: dict[str, str],
    status: int,
    pointer: str,
    code: str,
) -> None:
    make_pickled_model(settings.models_directory / "pickled")
    response = client.post("/sample", json={"target": target})
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.json()["errors"][0]["pointer"] == pointer
    assert ledger.messages(settings) == []


def test_a_sample_is_no_target(client: TestClient, sessions: Sessions) -> None:
    client.post("/sample", json=BODY, headers=ASYNC)
    target = {"job_id": ledger.sample_ids(sessions)[0]}
    response = client.post("/sample", json={"target": target})
    assert (response.status_code, response.json()["code"]) == (404, "job_not_found")


@pytest.mark.parametrize(
    ("change", "pointer", "allowed"),
    [
        ({"n": 0}, "/n", {"minimum": 1}),
        ({"n": 9}, "/n", {"minimum": 1, "maximum": 8}),
        ({"sampler": {"steps": 0}}, "/sampler/steps", {"minimum": 1, "maximum": 1000}),
        ({"sampler": {"name": "ddim"}}, "/sampler/name", ["steps", "eta"]),
        ({"compare_to": "teacher"}, "/compare_to", ["baseline"]),
        ({"compare_to": "baseline"}, "/compare_to", [None]),
        ({"execution": "integer"}, "/execution", ["auto"]),
        ({"execution": "simulated"}, "/execution", ["auto"]),
        ({"execution": "int8"}, "/execution", ["auto", "integer", "simulated"]),
        ({"output": {"format": "gif"}}, "/output/format", ["png"]),
    ],
)
def test_a_bad_request_is_refused_with_field_and_allowed_values(
    settings: Settings, change: dict[str, Any], pointer: str, allowed: object
) -> None:
    app = create_app(settings.model_copy(update={"max_images": 8}))
    with TestClient(app) as client:
        response = client.post("/sample", json=BODY | change)
    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert (error["pointer"], error["allowed"]) == (pointer, allowed)


def test_a_png_needs_a_grid(client: TestClient) -> None:
    body = BODY | {"output": {"grid": False}}
    response = client.post("/sample", json=body, headers={"Accept": "image/png"})
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/output/grid"


def test_a_media_type_that_is_not_on_offer_is_refused_before_anything_is_queued(
    client: TestClient, settings: Settings
) -> None:
    response = client.post("/sample", json=BODY, headers={"Accept": "image/webp"})
    assert (response.status_code, response.json()["code"]) == (406, "not_acceptable")
    assert "image/png" in response.json()["hint"]
    assert ledger.messages(settings) == []


def test_a_job_is_not_a_sample(client: TestClient, job_id: str) -> None:
    for name in (job_id, job_id.replace("job_", "sample_"), "sample_" + "0" * 32):
        response = client.get(f"/samples/{name}")
        assert (response.status_code, response.json()["code"]) == (404, "job_not_found")

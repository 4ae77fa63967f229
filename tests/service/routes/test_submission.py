from fastapi import FastAPI
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from jobs.ids import parse_id
from jobs.models import Job
from jobs.settings import Settings
from tests.service import ledger
from tests.service.ledger import Sessions
from tests.service.models import W4A8


def test_submitting_answers_202_with_the_place_of_the_job(client: TestClient) -> None:
    response = client.post("/jobs", json=W4A8)
    job = response.json()
    assert response.status_code == 202
    assert response.headers["Location"] == f"/jobs/{job['id']}" == job["urls"]["self"]
    assert int(response.headers["Retry-After"]) > 0
    assert (job["object"], job["kind"], job["status"]) == ("job", "quantize", "queued")
    assert job["queue"] == {"position": 1, "ahead": 0}
    assert client.get(response.headers["Location"]).json() == job


def test_submitting_stores_the_resolved_recipe_and_every_default(
    client: TestClient, sessions: Sessions
) -> None:
    job = client.post("/jobs", json=W4A8 | {"labels": {"team": "a"}}).json()
    assert [item["kind"] for item in job["recipe"]["method"]["passes"]] == [
        "split",
        "tcr",
        "fit_ranges",
        "daq",
        "second_order",
    ]
    assert job["recipe"]["calibration"]["seed"] == 0
    assert job["recipe_digest"].startswith("sha256:")
    assert job["labels"] == {"team": "a"}
    with sessions.begin() as session:
        row = session.get_one(Job, parse_id(job["id"]))
        assert row.request["recipe"] == "standard"
        assert row.request["softmax_bits"] == 8


def test_a_job_writes_its_checkpoint_and_what_else_is_asked_for(
    client: TestClient, sessions: Sessions
) -> None:
    assert client.post("/jobs", json=W4A8).json()["exports"] == ["safetensors"]
    body = W4A8 | {"exports": ["onnx", "onnx"]}
    job = client.post("/jobs", json=body).json()
    assert job["exports"] == ["safetensors", "onnx"]
    with sessions.begin() as session:
        row = session.get_one(Job, parse_id(job["id"]))
    assert row.request["exports"] == ["safetensors", "onnx"]


def test_a_format_that_is_not_written_is_refused_with_those_that_are(
    client: TestClient, settings: Settings
) -> None:
    response = client.post("/jobs", json=W4A8 | {"exports": ["gguf"]})
    (error,) = response.json()["errors"]
    assert (response.status_code, error["pointer"]) == (422, "/exports/0")
    assert error["allowed"] == ["safetensors", "onnx"]
    assert ledger.messages(settings) == []


def test_a_recipe_with_memory_is_not_written_in_onnx(
    client: TestClient, settings: Settings
) -> None:
    body = W4A8 | {"recipe": "modiff", "exports": ["onnx"]}
    response = client.post("/jobs", json=body)
    (error,) = response.json()["errors"]
    assert (response.status_code, error["pointer"]) == (422, "/exports")
    assert error["allowed"] == ["safetensors"]
    assert ledger.messages(settings) == []


def test_an_explicit_method_is_taken_as_it_is(client: TestClient) -> None:
    method = {"passes": [{"kind": "fit_ranges", "weight": "min_max"}], "skip": ["a.*"]}
    job = client.post("/jobs", json=W4A8 | {"recipe": method}).json()
    assert job["recipe"]["method"]["skip"] == ["a.*"]
    assert job["recipe"]["method"]["passes"][0]["weight"] == "min_max"


def test_submitting_puts_one_message_with_the_id_alone_into_the_broker(
    client: TestClient, settings: Settings
) -> None:
    assert ledger.messages(settings) == []
    job_id = client.post("/jobs", json=W4A8).json()["id"]
    (message,) = ledger.messages(settings)
    assert message.name.endswith(".quantize.msg")
    assert parse_id(job_id).hex not in message.name
    # Celery's body is base64 of [args, kwargs, embed]; its header repeats the args.
    assert str(parse_id(job_id)) in message.read_text()


def test_a_commit_that_fails_is_answered_as_such_and_rings_nothing(
    app: FastAPI, client: TestClient, settings: Settings
) -> None:
    engine = app.state.resources.sessions.kw["bind"]
    assert isinstance(engine, Engine)

    def disk_full(_connection: Connection) -> None:
        raise OperationalError("COMMIT", {}, Exception("disk full"))

    event.listen(engine, "commit", disk_full)
    response = client.post("/jobs", json=W4A8)
    event.remove(engine, "commit", disk_full)
    assert response.status_code == 503
    assert response.json()["code"] == "not_serving"
    assert "disk full" not in response.text
    assert ledger.messages(settings) == []
    assert client.get("/jobs").json()["data"] == []

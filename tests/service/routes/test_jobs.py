from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from jobs.artifacts import LocalStore
from jobs.ids import parse_id
from jobs.models import Job
from jobs.settings import Settings
from service.app import create_app
from tests.service import ledger
from tests.service.ledger import NOON, Sessions
from tests.service.models import make_model, make_pickled_model, make_truncated_model

BODY: dict[str, Any] = {"model": "tiny", "weight_bits": 4, "activation_bits": 8}


def test_submitting_answers_202_with_the_place_of_the_job(client: TestClient) -> None:
    response = client.post("/jobs", json=BODY)
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
    job = client.post("/jobs", json=BODY | {"labels": {"team": "a"}}).json()
    assert [item["kind"] for item in job["recipe"]["method"]["passes"]] == [
        "tcr",
        "fit_ranges",
        "daq",
        "par",
    ]
    assert job["recipe"]["calibration"]["seed"] == 0
    assert job["recipe_digest"].startswith("sha256:")
    assert job["labels"] == {"team": "a"}
    with sessions.begin() as session:
        row = session.get_one(Job, parse_id(job["id"]))
        assert row.request["recipe"] == "tcaq"
        assert row.request["softmax_bits"] == 8


def test_an_explicit_method_is_taken_as_it_is(client: TestClient) -> None:
    method = {"passes": [{"kind": "fit_ranges", "weight": "min_max"}], "skip": ["a.*"]}
    job = client.post("/jobs", json=BODY | {"recipe": method}).json()
    assert job["recipe"]["method"]["skip"] == ["a.*"]
    assert job["recipe"]["method"]["passes"][0]["weight"] == "min_max"


def test_submitting_puts_one_message_with_the_id_alone_into_the_broker(
    client: TestClient, settings: Settings
) -> None:
    assert ledger.messages(settings) == []
    job_id = client.post("/jobs", json=BODY).json()["id"]
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
    response = client.post("/jobs", json=BODY)
    event.remove(engine, "commit", disk_full)
    assert response.status_code == 503
    assert response.json()["code"] == "not_serving"
    assert "disk full" not in response.text
    assert ledger.messages(settings) == []
    assert client.get("/jobs").json()["data"] == []


@pytest.mark.parametrize(
    ("change", "pointer", "allowed"),
    [
        ({"weight_bits": 9}, "/weight_bits", [2, 3, 4, 5, 6, 7, 8]),
        ({"weight_bits": 1}, "/weight_bits", [2, 3, 4, 5, 6, 7, 8]),
        ({"activation_bits": 9}, "/activation_bits", [4, 5, 6, 7, 8, 16]),
        ({"softmax_bits": 3}, "/softmax_bits", [4, 5, 6, 7, 8]),
        ({"recipe": "best"}, "/recipe", ["rtn", "tcaq", "tcaq-paper"]),
        ({"recipe": 5}, "/recipe", ["rtn", "tcaq", "tcaq-paper"]),
        ({"recipe": {"passes": []}}, "/recipe/passes", None),
        (
            {"recipe": {"passes": [{"kind": "gptq"}]}},
            "/recipe/passes/0/kind",
            ["tcr", "fit_ranges", "daq", "par"],
        ),
        (
            {"recipe": {"passes": [{"kind": "par"}, {"kind": "fit_ranges"}]}},
            "/recipe/passes",
            ["tcr", "fit_ranges", "daq", "par"],
        ),
        (
            {"recipe": {"passes": [{"kind": "tcr"}]}},
            "/recipe/passes",
            ["tcr", "fit_ranges", "daq", "par"],
        ),
        (
            {"recipe": {"passes": [{"kind": "fit_ranges"}], "skipp": []}},
            "/recipe/skipp",
            ["passes", "skip", "overrides"],
        ),
        (
            {"recipe": {"passes": [{"kind": "fit_ranges", "weight": "max"}]}},
            "/recipe/passes/0/weight",
            ["min_max", "mse"],
        ),
        (
            {"recipe": {"passes": [{"kind": "tcr", "a/b~c": 1}]}},
            "/recipe/passes/0/a~1b~0c",
            ["kind", "num_groups", "target", "strength", "truncation"],
        ),
        (
            {"calibration": {"steps": 5}},
            "/calibration/steps",
            ["num_samples", "num_steps", "eta", "seed"],
        ),
        (
            {"calibration": {"num_steps": 1001}},
            "/calibration/num_steps",
            {"minimum": 1, "maximum": 1000},
        ),
    ],
)
def test_a_recipe_outside_the_rules_is_refused_with_field_and_allowed_values(
    client: TestClient,
    settings: Settings,
    change: dict[str, Any],
    pointer: str,
    allowed: object,
) -> None:
    response = client.post("/jobs", json=BODY | change)
    problem = response.json()
    assert response.status_code == 422
    assert response.headers["Content-Type"] == "application/problem+json"
    assert problem["code"] == "recipe_invalid"
    found = {error["pointer"]: error.get("allowed") for error in problem["errors"]}
    assert pointer in found
    if allowed is not None:
        assert found[pointer] == allowed
    assert ledger.messages(settings) == []


def test_an_unknown_key_of_the_body_is_refused_with_the_known_ones(
    client: TestClient,
) -> None:
    problem = client.post("/jobs", json=BODY | {"weigth_bits": 4}).json()
    assert problem["code"] == "request_invalid"
    (error,) = problem["errors"]
    assert (error["pointer"], error["code"]) == ("/weigth_bits", "unknown_key")
    assert "weight_bits" in error["allowed"]


def test_a_number_that_no_database_stores_is_refused(client: TestClient) -> None:
    content = (
        '{"model":"tiny","weight_bits":4,"activation_bits":8,"recipe":'
        '{"passes":[{"kind":"fit_ranges"},{"kind":"par","learning_rate":1e999}]}}'
    )
    headers = {"Content-Type": "application/json"}
    response = client.post("/jobs", content=content, headers=headers)
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"].startswith("/recipe")


@pytest.mark.parametrize("labels", [{"a b": "x"}, {"a": "x\u0000"}, {"": "x"}])
def test_labels_that_a_database_or_header_could_not_hold_are_refused(
    client: TestClient, labels: dict[str, str]
) -> None:
    response = client.post("/jobs", json=BODY | {"labels": labels})
    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert error["pointer"].startswith("/labels/")
    assert "pattern" in error["allowed"]


@pytest.mark.parametrize(
    "name",
    ["../tiny", "/etc", "..", "%2e%2e/tiny", "%2e%2e%2ftiny", "a/../../b", "tiny/unet"],
)
def test_a_model_outside_the_models_folder_cannot_be_named(
    client: TestClient, settings: Settings, name: str
) -> None:
    response = client.post("/jobs", json=BODY | {"model": name})
    problem = response.json()
    assert (response.status_code, problem["code"]) == (404, "model_not_found")
    assert problem["errors"][0]["pointer"] == "/model"
    assert problem["errors"][0]["allowed"] == ["tiny"]
    assert str(settings.models_directory) not in response.text
    assert ledger.messages(settings) == []


def test_a_link_that_leaves_the_models_folder_is_not_followed(
    client: TestClient, settings: Settings
) -> None:
    outside = make_model(settings.data_directory / "outside")
    (settings.models_directory / "link").symlink_to(outside)
    response = client.post("/jobs", json=BODY | {"model": "link"})
    assert response.json()["code"] == "model_not_found"


def test_an_unknown_model_is_refused_with_the_known_ones(client: TestClient) -> None:
    response = client.post("/jobs", json=BODY | {"model": "tinny"})
    assert response.status_code == 404
    assert response.json()["errors"][0]["allowed"] == ["tiny"]
    assert "tiny" in response.json()["hint"]


def test_pickled_weights_are_refused_before_anything_is_queued(
    client: TestClient, settings: Settings
) -> None:
    make_pickled_model(settings.models_directory / "pickled")
    response = client.post("/jobs", json=BODY | {"model": "pickled"})
    assert response.status_code == 422
    assert response.json()["code"] == "checkpoint_unsafe"
    assert "safe_serialization" in response.json()["hint"]
    assert ledger.messages(settings) == []


def test_truncated_weights_are_refused_before_anything_is_queued(
    client: TestClient, settings: Settings
) -> None:
    make_truncated_model(settings.models_directory / "short")
    response = client.post("/jobs", json=BODY | {"model": "short"})
    assert response.status_code == 422
    assert response.json()["code"] == "checkpoint_shape_mismatch"
    assert ledger.messages(settings) == []


def test_another_denoiser_is_refused(client: TestClient, settings: Settings) -> None:
    make_model(settings.models_directory / "other", denoiser="UNet2DConditionModel")
    response = client.post("/jobs", json=BODY | {"model": "other"})
    assert (response.status_code, response.json()["code"]) == (422, "model_unsupported")


def test_a_hub_model_must_be_pinned_to_a_commit(client: TestClient) -> None:
    loose = client.post("/jobs", json=BODY | {"model": "google/ddpm-cifar10-32"})
    assert (loose.status_code, loose.json()["code"]) == (404, "model_not_found")
    assert "commit" in loose.json()["hint"]
    pinned = f"google/ddpm-cifar10-32@{'a' * 40}"
    job = client.post("/jobs", json=BODY | {"model": pinned})
    assert job.status_code == 202
    assert job.json()["model"]["repo"] == "google/ddpm-cifar10-32"
    assert job.json()["model"]["revision"] == "a" * 40


def test_a_hub_model_is_refused_where_hubs_are_switched_off(
    settings: Settings,
) -> None:
    app = create_app(settings.model_copy(update={"allow_hub": False}))
    with TestClient(app) as client:
        response = client.post("/jobs", json=BODY | {"model": f"a/b@{'a' * 40}"})
    assert (response.status_code, response.json()["code"]) == (422, "model_unsupported")
    assert response.json()["errors"][0]["pointer"] == "/model"


def test_a_running_job_tells_stage_progress_and_eta(
    client: TestClient, sessions: Sessions, job_id: str
) -> None:
    lease = ledger.claim(sessions, job_id, now=NOON)
    ledger.report(sessions, lease, fraction=0.0, now=NOON)
    assert client.get(f"/jobs/{job_id}").json()["progress"]["eta_s"] is None
    ledger.report(sessions, lease, fraction=0.25, now=NOON + timedelta(seconds=100))
    job = client.get(f"/jobs/{job_id}").json()
    assert job["stage"] == {"name": "par", "index": 5, "count": 8}
    progress = job["progress"]
    assert progress["percent"] == 25.0
    assert (progress["done"], progress["total"]) == (17, 38)
    assert progress["unit"] == "block"
    assert progress["rate_per_s"] == 0.17
    assert progress["eta_low_s"] < progress["eta_s"] == 300.0 < progress["eta_high_s"]
    assert job["queue"] == {"position": None, "ahead": None}
    assert job["attempt"]["number"] == 1
    assert job["attempt"]["last_heartbeat_at"] == "2026-11-21T12:01:40Z"
    assert job["steps"][0]["started_at"] == "2026-11-21T12:00:00Z"


def test_an_unchanged_job_is_answered_304_until_it_changes(
    client: TestClient, sessions: Sessions, job_id: str
) -> None:
    first = client.get(f"/jobs/{job_id}")
    known = {"If-None-Match": first.headers["ETag"]}
    again = client.get(f"/jobs/{job_id}", headers=known)
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    assert "Retry-After" in again.headers
    ledger.claim(sessions, job_id)
    changed = client.get(f"/jobs/{job_id}", headers=known)
    assert changed.status_code == 200
    assert changed.headers["ETag"] != first.headers["ETag"]


def test_a_job_that_moves_up_in_the_queue_is_not_answered_304(
    client: TestClient, job_id: str
) -> None:
    second = client.post("/jobs", json=BODY).json()
    assert second["queue"] == {"position": 2, "ahead": 1}
    path = second["urls"]["self"]
    known = {"If-None-Match": client.get(path).headers["ETag"]}
    client.post(f"/jobs/{job_id}/cancel")
    moved = client.get(path, headers=known)
    assert moved.status_code == 200
    assert moved.json()["queue"] == {"position": 1, "ahead": 0}


def test_a_finished_job_tells_its_result_and_asks_for_no_more_polling(
    client: TestClient, sessions: Sessions, store: LocalStore, job_id: str
) -> None:
    sha256 = ledger.succeed(sessions, store, job_id)
    response = client.get(f"/jobs/{job_id}")
    job = response.json()
    assert "Retry-After" not in response.headers
    assert job["status"] == "succeeded"
    assert job["progress"]["percent"] == 100.0
    assert job["result"]["checkpoint"]["sha256"] == sha256
    assert job["metrics"] == {"compression_ratio": 6.5, "max_abs_diff": 0.0}
    assert job["urls"]["checkpoint"] == f"/jobs/{job_id}/checkpoint"
    assert job["usage"]["worker_seconds"] > 0


def test_a_failed_job_carries_its_problem(
    client: TestClient, sessions: Sessions, job_id: str
) -> None:
    error = {
        "code": "diverged",
        "title": "Reconstruction diverged",
        "detail": "NaN in mid_block.",
        "hint": "Lower the learning rate.",
        "retryable": False,
    }
    ledger.fail(sessions, job_id, error)
    job = client.get(f"/jobs/{job_id}").json()
    assert (job["status"], job["error"]) == ("failed", error)


@pytest.mark.parametrize("job_id", ["job_" + "0" * 32, "job_x", "0" * 32, "%2e%2e"])
@pytest.mark.parametrize("suffix", ["", "/checkpoint"])
def test_an_unknown_job_is_a_404_problem(
    client: TestClient, job_id: str, suffix: str
) -> None:
    response = client.get(f"/jobs/{job_id}{suffix}")
    assert (response.status_code, response.json()["code"]) == (404, "job_not_found")


def test_a_queued_job_is_cancelled_at_once(client: TestClient, job_id: str) -> None:
    response = client.post(f"/jobs/{job_id}/cancel")
    assert response.status_code == 202
    assert response.json()["status"] == "cancelled"
    assert response.json()["cancel_requested_at"] is not None


def test_cancelling_a_running_job_can_be_repeated(
    client: TestClient, sessions: Sessions, job_id: str
) -> None:
    ledger.claim(sessions, job_id)
    for _ in range(2):
        response = client.post(f"/jobs/{job_id}/cancel")
        assert response.status_code == 202
        assert response.json()["status"] == "cancelling"
        assert "Retry-After" in response.headers


def test_a_job_that_has_ended_cannot_be_cancelled(
    client: TestClient, sessions: Sessions, store: LocalStore, job_id: str
) -> None:
    ledger.succeed(sessions, store, job_id)
    response = client.post(f"/jobs/{job_id}/cancel")
    assert (response.status_code, response.json()["code"]) == (
        409,
        "illegal_transition",
    )


def test_a_sample_is_not_a_job(client: TestClient, sessions: Sessions) -> None:
    body = {"target": {"model": "tiny"}}
    client.post("/sample", json=body, headers={"Prefer": "respond-async"})
    (sample_id,) = ledger.sample_ids(sessions)
    as_job = sample_id.replace("sample_", "job_")
    for path in (f"/jobs/{sample_id}", f"/jobs/{as_job}"):
        assert client.get(path).status_code == 404
    assert client.post(f"/jobs/{sample_id}/cancel").status_code == 404
    assert client.get("/jobs").json()["data"] == []


def test_pages_follow_one_another_without_gap_or_overlap(client: TestClient) -> None:
    made = [client.post("/jobs", json=BODY).json()["id"] for _ in range(5)]
    seen: list[str] = []
    url: str | None = "/jobs?limit=2"
    while url:
        page = client.get(url)
        seen += [job["id"] for job in page.json()["data"]]
        assert page.json()["first_id"] == page.json()["data"][0]["id"]
        assert page.json()["last_id"] == seen[-1]
        assert page.json()["has_more"] == ("next" in page.links)
        assert (page.json()["next"] is not None) == page.json()["has_more"]
        url = page.links.get("next", {}).get("url")
    assert seen == made[::-1]
    assert [job["id"] for job in client.get("/jobs?order=asc").json()["data"]] == made


def test_a_listing_can_be_narrowed_to_a_status(client: TestClient, job_id: str) -> None:
    other = client.post("/jobs", json=BODY).json()["id"]
    client.post(f"/jobs/{other}/cancel")
    found = {
        status: [
            job["id"] for job in client.get(f"/jobs?status={status}").json()["data"]
        ]
        for status in ("queued", "cancelled", "running")
    }
    assert found == {"queued": [job_id], "cancelled": [other], "running": []}


def test_an_empty_listing_has_no_ids(client: TestClient) -> None:
    assert client.get("/jobs").json() == {
        "object": "list",
        "data": [],
        "has_more": False,
        "first_id": None,
        "last_id": None,
        "next": None,
    }


def test_a_cursor_is_good_for_its_own_listing_only(client: TestClient) -> None:
    for _ in range(2):
        client.post("/jobs", json=BODY)
    cursor = client.get("/jobs?limit=1").json()["next"]
    assert client.get(f"/jobs?after={cursor}").status_code == 200
    tampered = ("A" if cursor[0] != "A" else "B") + cursor[1:]
    for query in (
        f"after={tampered}",
        f"after={cursor[:-4]}",
        "after=!!!",
        f"after={cursor}&order=asc",
        f"after={cursor}&status=queued",
    ):
        response = client.get(f"/jobs?{query}")
        assert response.status_code == 422
        (error,) = response.json()["errors"]
        assert (error["parameter"], error["code"]) == ("after", "cursor_invalid")


@pytest.mark.parametrize(
    ("query", "name", "allowed"),
    [
        ("limit=0", "limit", {"minimum": 1, "maximum": 100}),
        ("limit=101", "limit", {"minimum": 1, "maximum": 100}),
        ("order=up", "order", ["desc", "asc"]),
        ("page=2", "page", ["status", "limit", "after", "order"]),
    ],
)
def test_a_bad_parameter_is_refused_with_what_is_allowed(
    client: TestClient, query: str, name: str, allowed: object
) -> None:
    response = client.get(f"/jobs?{query}")
    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert (error["parameter"], error["allowed"]) == (name, allowed)

from datetime import timedelta

import pytest
from starlette.testclient import TestClient

from jobs.artifacts import LocalStore
from tests.service import ledger
from tests.service.ledger import NOON, Sessions
from tests.service.models import W4A8


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
    second = client.post("/jobs", json=W4A8).json()
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
    assert job["metrics"] == {
        "compression_ratio": 6.5,
        "max_abs_diff": 0.0,
        "speedup_over_float32": 5.5,
        "speedup_over_bfloat16": 1.9,
    }
    assert job["urls"]["checkpoint"] == f"/jobs/{job_id}/checkpoint"
    assert job["urls"]["onnx"] is None
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

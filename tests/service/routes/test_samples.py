from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic, sleep
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from jobs import repository
from jobs.artifacts import LocalStore
from jobs.ids import parse_id
from jobs.models import Job
from jobs.settings import Settings
from tests.service import ledger
from tests.service.ledger import GRID, Sessions

BODY: dict[str, Any] = {"target": {"model": "tiny"}, "n": 1}
ASYNC = {"Prefer": "respond-async"}
# More than the threads that Starlette has for endpoints (40).
CROWD = 45

Post = Callable[..., "Future[httpx2.Response]"]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Return threads for the callers that wait."""
    with ThreadPoolExecutor(CROWD) as threads:
        yield threads


@pytest.fixture
def post(client: TestClient, pool: ThreadPoolExecutor) -> Post:
    """Return a function that posts a sample in a thread."""

    def start(**request: Any) -> "Future[httpx2.Response]":  # noqa: ANN401 - httpx2's own keywords
        return pool.submit(client.post, "/sample", **({"json": BODY} | request))

    return start


def test_a_sample_is_awaited_and_answered_with_links(
    post: Post, client: TestClient, sessions: Sessions, store: LocalStore
) -> None:
    answer = post()
    sample_id = await_samples(sessions, 1)[0]
    grid = ledger.succeed_sample(sessions, store, sample_id)
    response = answer.result()
    sample = response.json()
    assert response.status_code == 200
    assert (sample["object"], sample["id"]) == ("sample", sample_id)
    assert sample["images"][0]["seed"] == 0
    assert sample["grid"]["url"] == f"/artifacts/{grid}/content"
    assert sample["execution"] == response.headers["Tcaq-Execution"] == "integer"
    assert sample["execution_details"] == ledger.DETAILS
    assert response.headers["Tcaq-Kernels"] == "onednn-int8"
    assert client.get(sample["grid"]["url"]).content == GRID
    assert client.get(sample["urls"]["self"]).json() == sample


def test_a_png_is_the_grid_itself(
    post: Post, sessions: Sessions, store: LocalStore
) -> None:
    # Neither condition nor range applies to what a POST makes.
    headers = {"Accept": "image/png", "If-None-Match": "*", "Range": "bytes=0-1"}
    answer = post(headers=headers)
    sample_id = await_samples(sessions, 1)[0]
    grid = ledger.succeed_sample(sessions, store, sample_id)
    response = answer.result()
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "image/png"
    assert response.headers["Tcaq-Sample-Id"] == sample_id
    assert response.headers["Content-Location"] == f"/artifacts/{grid}/content"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.content == GRID


def test_a_caller_who_would_not_wait_gets_the_place_to_look(
    client: TestClient, settings: Settings
) -> None:
    response = client.post("/sample", json=BODY, headers=ASYNC)
    assert response.status_code == 202
    assert response.headers["Preference-Applied"] == "respond-async"
    location = response.headers["Location"]
    assert location == response.json()["urls"]["self"]
    (message,) = ledger.messages(settings)
    assert message.name.endswith(".sample.msg")
    looked = client.get(location)
    assert looked.json()["status"] == "queued"
    assert looked.json()["images"] is None
    assert "Retry-After" in looked.headers


def test_an_unchanged_sample_is_answered_304_until_it_changes(
    client: TestClient, sessions: Sessions
) -> None:
    path = client.post("/sample", json=BODY, headers=ASYNC).headers["Location"]
    known = {"If-None-Match": client.get(path).headers["ETag"]}
    assert client.get(path, headers=known).status_code == 304
    cancel(sessions, path.rpartition("/")[2])
    assert client.get(path, headers=known).json()["status"] == "cancelled"


def test_waiting_ends_at_the_time_that_was_preferred(client: TestClient) -> None:
    response = client.post("/sample", json=BODY, headers={"Prefer": "wait=0"})
    assert response.status_code == 202
    assert response.headers["Preference-Applied"] == "wait=0"


def test_the_row_keeps_the_request_with_every_default(
    client: TestClient, sessions: Sessions
) -> None:
    location = client.post("/sample", json=BODY, headers=ASYNC).headers["Location"]
    with sessions.begin() as session:
        row = session.get_one(Job, parse_id(location.rpartition("/")[2]))
    assert row.model == "tiny"
    assert row.request == {
        "target": {"model": "tiny"},
        "compare_to": None,
        "execution": "auto",
        "n": 1,
        "seeds": {"start": 0},
        "sampler": {"steps": 50, "eta": 0.0},
        "output": {"format": "png", "grid": True},
    }


def test_a_failed_sample_is_a_problem_with_the_code_of_its_job(
    post: Post, sessions: Sessions
) -> None:
    answer = post()
    sample_id = await_samples(sessions, 1)[0]
    error = {
        "code": "out_of_memory",
        "title": "The device ran out of memory",
        "detail": "No room for 256 images.",
        "hint": "Ask for fewer.",
        "retryable": True,
    }
    ledger.fail(sessions, sample_id, error)
    response = answer.result()
    problem = response.json()
    assert response.status_code == 503
    assert response.headers["Tcaq-Sample-Id"] == sample_id
    assert {name: problem[name] for name in error} == error
    assert problem["status"] == 503


def test_a_cancelled_sample_is_a_problem(post: Post, sessions: Sessions) -> None:
    answer = post()
    cancel(sessions, await_samples(sessions, 1)[0])
    assert answer.result().status_code == 409
    assert answer.result().json()["code"] == "cancelled"


def test_callers_who_wait_do_not_keep_others_from_being_answered(
    post: Post, client: TestClient, sessions: Sessions
) -> None:
    waiting = [post() for _ in range(CROWD)]
    sample_ids = await_samples(sessions, CROWD)
    assert client.get("/jobs").status_code == 200
    assert client.get("/healthz").status_code == 200
    assert not any(answer.done() for answer in waiting)
    for sample_id in sample_ids:
        cancel(sessions, sample_id)
    assert {answer.result().status_code for answer in waiting} == {409}


def test_a_finished_job_can_be_sampled_beside_its_baseline(
    client: TestClient, sessions: Sessions, store: LocalStore, job_id: str
) -> None:
    body = {"target": {"job_id": job_id}, "compare_to": "baseline", "n": 4}
    early = client.post("/sample", json=body)
    assert (early.status_code, early.json()["code"]) == (409, "job_not_ready")
    assert early.json()["errors"][0]["pointer"] == "/target/job_id"
    ledger.succeed(sessions, store, job_id)
    assert client.post("/sample", json=body, headers=ASYNC).status_code == 202


@pytest.mark.parametrize("execution", ["auto", "integer", "simulated"])
def test_the_caller_chooses_how_a_checkpoint_computes(
    client: TestClient,
    sessions: Sessions,
    store: LocalStore,
    *,
    job_id: str,
    execution: str,
) -> None:
    ledger.succeed(sessions, store, job_id)
    body = {"target": {"job_id": job_id}, "execution": execution}
    location = client.post("/sample", json=body, headers=ASYNC).headers["Location"]
    assert client.get(location).json()["request"]["execution"] == execution


def test_a_checkpoint_is_sampled_by_its_hash(
    client: TestClient, sessions: Sessions, store: LocalStore, job_id: str
) -> None:
    sha256 = ledger.succeed(sessions, store, job_id)
    body = {"target": {"checkpoint": sha256}}
    assert client.post("/sample", json=body, headers=ASYNC).status_code == 202


def await_samples(sessions: Sessions, count: int) -> list[str]:
    """Return the ids of `count` samples once that many have been queued."""
    deadline = monotonic() + 60
    while len(found := ledger.sample_ids(sessions)) < count:
        assert monotonic() < deadline, "the samples were never queued"
        sleep(0.01)
    return found


def cancel(sessions: Sessions, sample_id: str) -> None:
    """Cancel a queued sample."""
    with sessions.begin() as session:
        repository.request_cancel(session, parse_id(sample_id), now=ledger.NOON)

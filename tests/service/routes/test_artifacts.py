import hashlib
from base64 import b64encode

import pytest
from starlette.testclient import TestClient

from jobs.artifacts import LocalStore
from tests.service import ledger
from tests.service.ledger import CHECKPOINT, ONNX, PICTURE, REPORT, Sessions

SIZE = len(CHECKPOINT)


@pytest.fixture
def path(client: TestClient, sessions: Sessions, store: LocalStore, job_id: str) -> str:
    """Return the path of a finished job's checkpoint."""
    ledger.succeed(sessions, store, job_id)
    return f"/jobs/{job_id}/checkpoint"


def test_a_checkpoint_arrives_whole_and_named_by_its_hash(
    client: TestClient, path: str, job_id: str
) -> None:
    response = client.get(path)
    digest = hashlib.sha256(CHECKPOINT)
    encoded = b64encode(digest.digest()).decode()
    assert response.status_code == 200
    assert response.content == CHECKPOINT
    assert response.headers["Content-Type"] == "application/x-tar"
    assert response.headers["Content-Length"] == str(SIZE)
    assert response.headers["ETag"] == f'"{digest.hexdigest()}"'
    assert response.headers["Repr-Digest"] == f"sha-256=:{encoded}:"
    assert response.headers["Accept-Ranges"] == "bytes"
    assert f'filename="{job_id}.tar"' in response.headers["Content-Disposition"]
    location = response.headers["Content-Location"]
    assert location == f"/artifacts/{digest.hexdigest()}/content"
    assert client.get(location).content == CHECKPOINT


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
        ("bytes=100-999999999", 100, SIZE),
        ("bytes=-7", SIZE - 7, SIZE),
        (f"bytes=-{SIZE + 5}", 0, SIZE),
    ],
)
def test_a_range_is_answered_with_those_bytes(
    client: TestClient, path: str, asked: str, start: int, stop: int
) -> None:
    response = client.get(path, headers={"Range": asked})
    assert response.status_code == 206
    assert response.content == CHECKPOINT[start:stop]
    assert response.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert response.headers["Content-Length"] == str(stop - start)


@pytest.mark.parametrize("asked", [f"bytes={SIZE}-", "bytes=-0", "bytes=99999999-"])
def test_a_range_outside_the_content_is_a_416_that_names_its_size(
    client: TestClient, path: str, asked: str
) -> None:
    response = client.get(path, headers={"Range": asked})
    assert response.status_code == 416
    assert response.headers["Content-Range"] == f"bytes */{SIZE}"
    assert response.json()["code"] == "range_unsatisfiable"


@pytest.mark.parametrize(
    "asked", ["bytes=9-1", "bytes=-", "bytes=a-b", "rows=0-1", "bytes=0-1,4-5", ""]
)
def test_a_range_that_is_none_means_all_bytes(
    client: TestClient, path: str, asked: str
) -> None:
    response = client.get(path, headers={"Range": asked})
    assert (response.status_code, response.content) == (200, CHECKPOINT)


def test_a_range_of_other_content_means_all_bytes(
    client: TestClient, path: str
) -> None:
    etag = client.get(path).headers["ETag"]
    for if_range, status in ((etag, 206), (f"W/{etag}", 200), ('"other"', 200)):
        headers = {"Range": "bytes=0-4", "If-Range": if_range}
        assert client.get(path, headers=headers).status_code == status


def test_content_that_the_caller_has_is_not_sent_again(
    client: TestClient, path: str
) -> None:
    etag = client.get(path).headers["ETag"]
    for known in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        response = client.get(path, headers={"If-None-Match": known})
        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["ETag"] == etag
    headers = {"If-None-Match": '"x"', "Range": "bytes=0-1"}
    assert client.get(path, headers=headers).status_code == 206


def test_head_tells_the_same_headers_without_bytes(
    client: TestClient, path: str
) -> None:
    told, sent = client.head(path), client.get(path)
    assert (told.status_code, told.content) == (200, b"")
    for name in ("ETag", "Content-Length", "Content-Type", "Accept-Ranges"):
        assert told.headers[name] == sent.headers[name]
    part = client.head(path, headers={"Range": "bytes=0-4"})
    assert (part.status_code, part.headers["Content-Length"]) == (206, "5")
    refused = client.head(path, headers={"Range": f"bytes={SIZE}-"})
    assert (refused.status_code, refused.content) == (416, b"")


def test_a_finished_jobs_report_is_json_and_has_a_picture(
    client: TestClient, sessions: Sessions, store: LocalStore, job_id: str
) -> None:
    ledger.succeed(sessions, store, job_id)
    urls = client.get(f"/jobs/{job_id}").json()["urls"]
    assert urls["report"] == f"/jobs/{job_id}/report"
    report = client.get(urls["report"])
    assert report.status_code == 200
    assert report.headers["Content-Type"] == "application/json"
    assert report.content == REPORT
    assert f'filename="{job_id}-report.json"' in report.headers["Content-Disposition"]
    assert client.get(report.headers["Content-Location"]).content == REPORT
    known = {"If-None-Match": report.headers["ETag"]}
    assert client.get(urls["report"], headers=known).status_code == 304
    picture = client.get(urls["report_picture"])
    assert picture.headers["Content-Type"] == "image/png"
    assert picture.content == PICTURE


def test_an_onnx_file_is_downloaded_where_it_was_asked_for(
    client: TestClient, sessions: Sessions, store: LocalStore, job_id: str
) -> None:
    ledger.succeed(sessions, store, job_id, has_onnx=True)
    url = client.get(f"/jobs/{job_id}").json()["urls"]["onnx"]
    assert url == f"/jobs/{job_id}/onnx"
    response = client.get(url)
    assert (response.status_code, response.content) == (200, ONNX)
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert f'filename="{job_id}.onnx"' in response.headers["Content-Disposition"]
    part = client.get(url, headers={"Range": "bytes=0-1"})
    assert (part.status_code, part.content) == (206, ONNX[:2])


def test_a_job_without_an_onnx_file_says_how_to_get_one(
    client: TestClient, sessions: Sessions, store: LocalStore, job_id: str
) -> None:
    ledger.succeed(sessions, store, job_id)
    response = client.get(f"/jobs/{job_id}/onnx")
    assert (response.status_code, response.json()["code"]) == (
        404,
        "artifact_not_found",
    )
    assert '"exports": ["onnx"]' in response.json()["hint"]


def test_an_unknown_job_has_no_report(client: TestClient) -> None:
    response = client.get(f"/jobs/job_{'0' * 32}/report")
    assert (response.status_code, response.json()["code"]) == (404, "job_not_found")


@pytest.mark.parametrize("what", ["checkpoint", "report", "onnx"])
def test_a_job_that_has_not_finished_has_nothing_to_download_yet(
    client: TestClient, sessions: Sessions, job_id: str, what: str
) -> None:
    assert client.get(f"/jobs/{job_id}").json()["urls"][what] is None
    queued = client.get(f"/jobs/{job_id}/{what}")
    ledger.claim(sessions, job_id)
    running = client.get(f"/jobs/{job_id}/{what}")
    for response in (queued, running):
        assert response.status_code == 409
        assert response.json()["code"] == "job_not_ready"
        assert f"/jobs/{job_id}" in response.json()["hint"]


def test_a_cancelled_job_never_gets_a_checkpoint(
    client: TestClient, job_id: str
) -> None:
    client.post(f"/jobs/{job_id}/cancel")
    response = client.get(f"/jobs/{job_id}/checkpoint")
    assert response.status_code == 409
    assert "never" in response.json()["hint"]


@pytest.mark.parametrize("name", ["0" * 64, "0" * 63, "..", "%2e%2e%2f", "A" * 64])
def test_an_unknown_artifact_is_a_404_problem(client: TestClient, name: str) -> None:
    response = client.get(f"/artifacts/{name}/content")
    assert response.status_code == 404
    assert response.headers["Content-Type"] == "application/problem+json"


def test_a_file_that_the_store_lost_is_a_404_problem(
    client: TestClient, store: LocalStore, path: str
) -> None:
    stored = store.path(hashlib.sha256(CHECKPOINT).hexdigest())
    assert stored is not None
    stored.unlink()
    response = client.get(path)
    assert (response.status_code, response.json()["code"]) == (
        404,
        "artifact_not_found",
    )

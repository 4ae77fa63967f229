import pytest
from fastapi import FastAPI
from sqlalchemy import Connection, Engine, event
from starlette.testclient import TestClient


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/", 404, "not_found"),
        ("DELETE", "/jobs", 405, "method_not_allowed"),
        ("GET", "/sample", 405, "method_not_allowed"),
    ],
)
def test_the_framework_answers_with_problems_too(
    client: TestClient, method: str, path: str, status: int, code: str
) -> None:
    response = client.request(method, path)
    problem = response.json()
    assert response.headers["Content-Type"] == "application/problem+json"
    assert (response.status_code, problem["status"]) == (status, status)
    assert (problem["code"], problem["instance"]) == (code, path)
    assert problem["request_id"] == response.headers["X-Request-Id"]
    if status == 405:
        assert method not in response.headers["Allow"]


def test_a_405_names_every_method_of_the_path(client: TestClient) -> None:
    assert client.delete("/jobs").headers["Allow"] == "GET, POST"
    path = f"/artifacts/{'0' * 64}/content"
    assert client.delete(path).headers["Allow"] == "GET, HEAD"
    assert client.get("/sample").headers["Allow"] == "POST"


def test_an_unexpected_error_is_a_problem_without_its_message(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    engine = app.state.resources.sessions.kw["bind"]
    assert isinstance(engine, Engine)

    def break_down(_connection: Connection) -> None:
        raise RuntimeError("postgresql://user:hunter2@db")

    event.listen(engine, "begin", break_down)
    with TestClient(app, raise_server_exceptions=False) as client:
        response = client.get("/jobs", headers={"X-Request-Id": "abc"})
    problem = response.json()
    assert (response.status_code, problem["code"]) == (500, "internal")
    assert response.headers["Content-Type"] == "application/problem+json"
    assert problem["request_id"] == response.headers["X-Request-Id"] == "abc"
    assert "hunter2" not in response.text
    (record,) = [
        item for item in caplog.records if item.name == "service.error_handlers"
    ]
    assert record.getMessage() == "request abc failed: RuntimeError"


def test_a_body_that_is_not_json_is_a_400_that_says_where(client: TestClient) -> None:
    headers = {"Content-Type": "application/json"}
    response = client.post("/jobs", content='{"model": }', headers=headers)
    assert (response.status_code, response.json()["code"]) == (400, "body_not_json")
    assert "character 10" in response.json()["detail"]


def test_a_body_nested_beyond_reason_is_a_400(client: TestClient) -> None:
    headers = {"Content-Type": "application/json"}
    response = client.post("/jobs", content="[" * 200_000, headers=headers)
    assert response.status_code == 400
    assert response.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded"]
)
def test_a_body_that_is_not_announced_as_json_is_a_415(
    client: TestClient, media_type: str
) -> None:
    headers = {"Content-Type": media_type}
    response = client.post("/jobs", content="{}", headers=headers)
    assert response.status_code == 415
    assert response.headers["Accept-Post"] == "application/json"


@pytest.mark.parametrize("content", ["[]", "5", "null", '"x"'])
def test_a_body_that_is_no_object_is_refused_with_the_known_keys(
    client: TestClient, content: str
) -> None:
    headers = {"Content-Type": "application/json"}
    response = client.post("/jobs", content=content, headers=headers)
    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert error["pointer"] == ""
    assert "weight_bits" in error["allowed"]


def test_a_missing_body_is_a_problem(client: TestClient) -> None:
    response = client.post("/jobs")
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == ""


def test_keys_that_no_encoding_holds_are_echoed_all_the_same(
    client: TestClient,
) -> None:
    headers = {"Content-Type": "application/json"}
    response = client.post("/jobs", content='{"\\ud800": 1}', headers=headers)
    assert response.status_code == 422

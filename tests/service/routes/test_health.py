import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from jobs.settings import Settings
from service.app import create_app
from tests.conftest import free_port


def test_a_healthy_service_is_alive_and_ready(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "alive"}
    ready = client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["checks"] == {"database": "ok", "broker": "ok", "store": "ok"}


def test_a_database_that_is_not_migrated_is_not_ready(settings: Settings) -> None:
    (settings.data_directory / "tcaq.db").unlink()
    assert failed_checks(settings) == ["database"]


def test_a_store_that_cannot_be_written_is_not_ready(settings: Settings) -> None:
    # A file where the folder should be: also root cannot write into that.
    settings.artifacts_directory.write_text("in the way")
    assert failed_checks(settings) == ["store"]


def test_a_broker_that_does_not_answer_is_not_ready_and_its_password_stays_secret(
    settings: Settings,
) -> None:
    url = SecretStr(f"redis://:hunter2@127.0.0.1:{free_port()}/0")
    assert failed_checks(settings.model_copy(update={"broker_url": url})) == ["broker"]


def test_a_job_is_accepted_while_the_broker_is_down(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    url = SecretStr(f"redis://:hunter2@127.0.0.1:{free_port()}/0")
    body = {"model": "tiny", "weight_bits": 4, "activation_bits": 8}
    app = create_app(settings.model_copy(update={"broker_url": url}))
    with TestClient(app) as client:
        submitted = client.post("/jobs", json=body)
        assert submitted.status_code == 202
        assert client.get(submitted.headers["Location"]).status_code == 200
    assert "the broker does not answer" in caplog.text
    assert "hunter2" not in caplog.text


def failed_checks(settings: Settings) -> list[str]:
    """Return the names of what /readyz says does not answer."""
    with TestClient(create_app(settings)) as client:
        response = client.get("/readyz")
        assert client.get("/healthz").status_code == 200
    assert response.status_code == 503
    assert response.headers["Content-Type"] == "application/problem+json"
    assert "Retry-After" in response.headers
    assert "hunter2" not in response.text
    assert response.json()["code"] == "not_serving"
    return [error["parameter"] for error in response.json()["errors"]]

import pytest
from starlette.testclient import TestClient

from jobs.settings import Settings
from service.app import create_app
from tests.service import ledger
from tests.service.models import (
    W4A8,
    make_model,
    make_pickled_model,
    make_truncated_model,
)


@pytest.mark.parametrize(
    "name",
    ["../tiny", "/etc", "..", "%2e%2e/tiny", "%2e%2e%2ftiny", "a/../../b", "tiny/unet"],
)
def test_a_model_outside_the_models_folder_cannot_be_named(
    client: TestClient, settings: Settings, name: str
) -> None:
    response = client.post("/jobs", json=W4A8 | {"model": name})
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
    response = client.post("/jobs", json=W4A8 | {"model": "link"})
    assert response.json()["code"] == "model_not_found"


def test_an_unknown_model_is_refused_with_the_known_ones(client: TestClient) -> None:
    response = client.post("/jobs", json=W4A8 | {"model": "tinny"})
    assert response.status_code == 404
    assert response.json()["errors"][0]["allowed"] == ["tiny"]
    assert "tiny" in response.json()["hint"]


def test_pickled_weights_are_refused_before_anything_is_queued(
    client: TestClient, settings: Settings
) -> None:
    make_pickled_model(settings.models_directory / "pickled")
    response = client.post("/jobs", json=W4A8 | {"model": "pickled"})
    assert response.status_code == 422
    assert response.json()["code"] == "checkpoint_unsafe"
    assert "safe_serialization" in response.json()["hint"]
    assert ledger.messages(settings) == []


def test_truncated_weights_are_refused_before_anything_is_queued(
    client: TestClient, settings: Settings
) -> None:
    make_truncated_model(settings.models_directory / "short")
    response = client.post("/jobs", json=W4A8 | {"model": "short"})
    assert response.status_code == 422
    assert response.json()["code"] == "checkpoint_shape_mismatch"
    assert ledger.messages(settings) == []


def test_another_denoiser_is_refused(client: TestClient, settings: Settings) -> None:
    make_model(settings.models_directory / "other", denoiser="UNet2DConditionModel")
    response = client.post("/jobs", json=W4A8 | {"model": "other"})
    assert (response.status_code, response.json()["code"]) == (422, "model_unsupported")


def test_a_hub_model_must_be_pinned_to_a_commit(client: TestClient) -> None:
    loose = client.post("/jobs", json=W4A8 | {"model": "google/ddpm-cifar10-32"})
    assert (loose.status_code, loose.json()["code"]) == (404, "model_not_found")
    assert "commit" in loose.json()["hint"]
    pinned = f"google/ddpm-cifar10-32@{'a' * 40}"
    job = client.post("/jobs", json=W4A8 | {"model": pinned})
    assert job.status_code == 202
    assert job.json()["model"]["repo"] == "google/ddpm-cifar10-32"
    assert job.json()["model"]["revision"] == "a" * 40


def test_a_hub_model_is_refused_where_hubs_are_switched_off(
    settings: Settings,
) -> None:
    app = create_app(settings.model_copy(update={"allow_hub": False}))
    with TestClient(app) as client:
        response = client.post("/jobs", json=W4A8 | {"model": f"a/b@{'a' * 40}"})
    assert (response.status_code, response.json()["code"]) == (422, "model_unsupported")
    assert response.json()["errors"][0]["pointer"] == "/model"

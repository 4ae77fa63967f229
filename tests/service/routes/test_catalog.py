import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from starlette.testclient import TestClient

from jobs.settings import Settings
from service.app import create_app
from tcaq_core.evaluation.protocols import PROTOCOLS, SMALL_CLASSIFIER
from tcaq_core.recipe import ORDER, PRESETS
from tests.service.evaluations import make_network, make_reference, network
from tests.service.models import make_pickled_model, make_truncated_model

DEMO = Path(__file__).parents[3] / "models" / "ddpm-cifar10-small"


def test_models_are_listed_with_what_they_are_or_why_they_cannot_be_used(
    client: TestClient, settings: Settings
) -> None:
    make_pickled_model(settings.models_directory / "pickled")
    make_truncated_model(settings.models_directory / "short")
    (settings.models_directory / "not a name").mkdir()
    (settings.models_directory / ".hidden").mkdir()
    (settings.models_directory / "README.md").write_text("not a model")
    answer = client.get("/models").json()
    models = {model["name"]: model for model in answer["data"]}
    assert list(models) == ["not a name", "pickled", "short", "tiny"]
    tiny = models["tiny"]
    assert (tiny["usable"], tiny["reason"]) == (True, None)
    assert (tiny["num_parameters"], tiny["sample_size"]) == (6, 16)
    assert tiny["pipeline"] == "DDPMPipeline"
    assert models["pickled"]["code"] == "checkpoint_unsafe"
    assert models["short"]["code"] == "checkpoint_shape_mismatch"
    assert not models["not a name"]["usable"]
    assert "pickled weights" in models["pickled"]["reason"]


def test_a_missing_models_folder_is_an_empty_list(settings: Settings) -> None:
    missing = settings.models_directory / "none"
    app = create_app(settings.model_copy(update={"models_directory": missing}))
    with TestClient(app) as client:
        assert client.get("/models").json()["data"] == []


def test_recipes_are_resolved_and_described(client: TestClient) -> None:
    answer = client.get("/recipes").json()
    presets = {preset["name"]: preset for preset in answer["data"]}
    assert list(presets) == list(PRESETS)
    assert presets["tcaq"]["recipe"]["weight_bits"] == 4
    assert presets["tcaq"]["recipe"]["activation_bits"] == 8
    assert all(preset["description"].endswith(".") for preset in answer["data"])
    assert answer["passes"] == list(ORDER)
    assert answer["allowed"] == {
        "weight_bits": [2, 3, 4, 5, 6, 7, 8],
        "activation_bits": [4, 5, 6, 7, 8, 16],
        "softmax_bits": [4, 5, 6, 7, 8],
    }


def test_recipes_come_with_what_they_take_on_a_model(
    client: TestClient, settings: Settings
) -> None:
    shutil.copytree(DEMO, settings.models_directory / "own")
    for name in ("own", "tiny"):
        answer = client.get("/recipes", params={"model": name}).json()
        found = {preset["name"]: preset["estimate"] for preset in answer["data"]}
        assert found["rtn"]["seconds"] <= found["tcaq"]["seconds"]
        stages = found["tcaq"]["stage_seconds"]
        assert sum(stages.values()) == pytest.approx(found["tcaq"]["seconds"], abs=1)
        assert found["tcaq"]["denoiser_bytes"] > 0
        assert found["tcaq"]["peak_memory_bytes"] > 1e6
    assert all(p["estimate"] is None for p in client.get("/recipes").json()["data"])


@pytest.mark.parametrize("name", ["none", "owner/name@" + "0" * 40, "../tiny"])
def test_there_is_no_estimate_for_a_model_that_is_not_here(
    client: TestClient, name: str
) -> None:
    response = client.get("/recipes", params={"model": name})
    assert (response.status_code, response.json()["code"]) == (404, "model_not_found")


def test_every_method_listed_obeys_the_schema_beside_it(client: TestClient) -> None:
    answer = client.get("/recipes").json()
    for preset in answer["data"]:
        jsonschema.validate(preset["recipe"]["method"], answer["schema"])


def test_every_method_listed_can_be_submitted(client: TestClient) -> None:
    for preset in client.get("/recipes").json()["data"]:
        body = {
            "model": "tiny",
            "weight_bits": 4,
            "activation_bits": 8,
            "recipe": preset["recipe"]["method"],
        }
        submitted = client.post("/jobs", json=body)
        assert submitted.json()["recipe"] == preset["recipe"]


def test_the_type_of_a_problem_can_be_looked_up(client: TestClient) -> None:
    problem = client.get("/jobs/none").json()
    kind = client.get(problem["type"]).json()
    for name in ("type", "title", "status", "code"):
        assert kind[name] == problem[name]
    assert kind in client.get("/problems").json()["data"]
    assert client.get("/problems/none").status_code == 404


def test_protocols_are_listed_with_what_they_fix_and_what_they_lack(
    client: TestClient,
) -> None:
    listed = client.get("/protocols").json()["data"]
    found = {item["name"]: item for item in listed}
    assert list(found) == list(PROTOCOLS)
    for name, item in found.items():
        assert item["protocol"] == PROTOCOLS[name].model_dump(mode="json")
        assert item["description"] == PROTOCOLS[name].description
    codes = {name: item["code"] for name, item in found.items()}
    assert codes == {
        "quick": "extractor_unavailable",
        "cifar10-50k": "extractor_unavailable",
        "lsun-bedrooms-50k": "extractor_unavailable",
        "lsun-churches-50k": "extractor_unavailable",
        "imagenet256-50k": "model_unsupported",
        "coco-30k": "model_unsupported",
    }
    assert "TCAQ_INCEPTION_WEIGHTS" in found["cifar10-50k"]["hint"]
    assert "unconditional" in found["imagenet256-50k"]["reason"]


def test_a_protocol_becomes_usable_with_its_network_and_its_reference(
    client: TestClient, settings: Settings
) -> None:
    folder = settings.evaluation_directory

    def quick() -> dict[str, Any]:
        item: dict[str, Any] = client.get("/protocols").json()["data"][0]
        return item

    make_network(folder / "extractors" / SMALL_CLASSIFIER, image_size=32)
    assert (quick()["usable"], quick()["code"]) == (False, "reference_unusable")
    extractor = network(folder, SMALL_CLASSIFIER)
    make_reference(folder, "cifar10-train", extractor=extractor, side=32)
    assert (quick()["usable"], quick()["reason"], quick()["hint"]) == (True, None, None)

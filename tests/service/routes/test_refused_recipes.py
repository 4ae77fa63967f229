from typing import Any

import pytest
from starlette.testclient import TestClient

from jobs.settings import Settings
from tcaq_core.recipe import ORDER, PRESETS, TCR
from tests.service import ledger
from tests.service.models import W4A8


@pytest.mark.parametrize(
    ("change", "pointer", "allowed"),
    [
        ({"weight_bits": 9}, "/weight_bits", [2, 3, 4, 5, 6, 7, 8]),
        ({"weight_bits": 1}, "/weight_bits", [2, 3, 4, 5, 6, 7, 8]),
        ({"activation_bits": 9}, "/activation_bits", [4, 5, 6, 7, 8, 16]),
        ({"softmax_bits": 3}, "/softmax_bits", [4, 5, 6, 7, 8]),
        ({"recipe": "better"}, "/recipe", list(PRESETS)),
        ({"recipe": 5}, "/recipe", list(PRESETS)),
        ({"recipe": {"passes": []}}, "/recipe/passes", None),
        (
            {"recipe": {"passes": [{"kind": "gptq"}]}},
            "/recipe/passes/0/kind",
            list(ORDER),
        ),
        (
            {"recipe": {"passes": [{"kind": "par"}, {"kind": "fit_ranges"}]}},
            "/recipe/passes",
            list(ORDER),
        ),
        (
            {"recipe": {"passes": [{"kind": "tcr"}]}},
            "/recipe/passes",
            list(ORDER),
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
            list(TCR.model_fields),
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
    response = client.post("/jobs", json=W4A8 | change)
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
    problem = client.post("/jobs", json=W4A8 | {"weigth_bits": 4}).json()
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
    response = client.post("/jobs", json=W4A8 | {"labels": labels})
    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert error["pointer"].startswith("/labels/")
    assert "pattern" in error["allowed"]


@pytest.mark.parametrize("depth", [480, 990, 100_000])
def test_a_deeply_nested_body_is_a_client_s_error(
    client: TestClient, depth: int
) -> None:
    nested = "[" * depth + "]" * depth
    content = (
        f'{{"model":"tiny","weight_bits":4,"activation_bits":8,"recipe":{nested}}}'
    )
    headers = {"Content-Type": "application/json"}
    response = client.post("/jobs", content=content, headers=headers)
    assert response.status_code in {400, 422}
    assert response.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("field", ["iterations", "batch_size", "num_inputs"])
def test_an_absurdly_large_number_is_refused(client: TestClient, field: str) -> None:
    method = {"passes": [{"kind": "fit_ranges"}, {"kind": "par", field: 10**400}]}
    response = client.post("/jobs", json=W4A8 | {"recipe": method})
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"].endswith(field)

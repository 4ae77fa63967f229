from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.service.refusals import SWEEP, refused

MANY = [
    {"weight_bits": bits, "activation_bits": other, "softmax_bits": softmax}
    for bits in range(2, 9)
    for other in (4, 8)
    for softmax in (4, 8)
]
METHODS = [
    {"passes": [{"kind": "fit_ranges"}], "skip": [f"{index}"]} for index in range(9)
]


@pytest.mark.parametrize(
    ("change", "pointer", "said"),
    [
        ({"settings": []}, "/settings", "at least 1"),
        ({"settings": [MANY[0]] * 33}, "/settings", "at most 32"),
        ({"settings": [MANY[0]] * 2}, "/settings", "once"),
        (
            {"settings": [{"weight_bits": 9, "activation_bits": 8}]},
            "/settings/0/weight_bits",
            "less than",
        ),
        (
            {"settings": [{"weight_bits": 4}]},
            "/settings/0/activation_bits",
            "required",
        ),
        ({"recipes": []}, "/recipes", "at least 1"),
        ({"recipes": METHODS}, "/recipes", "at most 8"),
        ({"recipes": ["rtn", "rtn"]}, "/recipes", "once"),
        ({"recipes": [METHODS[0], METHODS[0]]}, "/recipes", "once"),
        ({"recipes": ["rtn", "better"]}, "/recipes/1", "known"),
        ({"recipes": [{"passes": []}]}, "/recipes/0/passes", "at least 1"),
        (
            {"settings": MANY, "recipes": ["rtn", "standard", "tcaq"]},
            "/recipes",
            "84 points; at most 64",
        ),
        ({"recipe": "rtn"}, "/recipe", "not permitted"),
        ({"exports": ["onnx"]}, "/exports", "not permitted"),
    ],
)
def test_a_sweep_outside_the_rules_is_refused_at_the_field(
    client: TestClient, change: dict[str, Any], pointer: str, said: str
) -> None:
    problem = refused(client, SWEEP | change)
    assert (problem["status"], problem["pointer"]) == (422, pointer)
    assert said in problem["error"]["detail"]


def test_a_sweep_of_a_model_that_is_not_there_is_refused(client: TestClient) -> None:
    problem = refused(client, SWEEP | {"model": "none"})
    assert (problem["pointer"], problem["code"]) == ("/model", "model_not_found")
    assert problem["error"]["allowed"] == ["tiny"]

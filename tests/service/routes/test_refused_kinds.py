import pytest
from starlette.testclient import TestClient

from tests.service.models import W4A8
from tests.service.refusals import EVALUATE, refused


@pytest.mark.parametrize("kind", ["sample", "train", None, 5, ["quantize"], ""])
def test_another_kind_of_job_is_refused_with_those_there_are(
    client: TestClient, kind: object
) -> None:
    problem = refused(client, W4A8 | {"kind": kind})
    assert (problem["pointer"], problem["code"]) == ("/kind", "request_invalid")
    assert problem["error"]["allowed"] == ["quantize", "evaluate", "sweep"]
    assert "_kind" not in problem["error"]["detail"]


def test_the_key_of_another_kind_is_unknown(client: TestClient) -> None:
    problem = refused(client, W4A8 | {"settings": []})
    assert problem["pointer"] == "/settings"
    assert "weight_bits" in problem["error"]["allowed"]
    problem = refused(client, EVALUATE | {"weight_bits": 4})
    assert problem["pointer"] == "/weight_bits"
    assert problem["error"]["allowed"] == [
        "kind",
        "target",
        "evaluation",
        "execution",
        "labels",
    ]


@pytest.mark.parametrize("body", [[], "x", 5, None])
def test_a_body_that_is_no_object_is_refused(client: TestClient, body: object) -> None:
    response = client.post("/jobs", json=body)
    assert response.status_code == 422
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["errors"][0]["pointer"] in {"", None}

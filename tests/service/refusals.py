"""A body of every kind of job, and what is answered to one that is refused."""

from typing import Any

from starlette.testclient import TestClient

from tests.service.evaluations import QUICK
from tests.service.models import W4A8

EVALUATE: dict[str, Any] = {
    "kind": "evaluate",
    "target": {"model": "tiny"},
    "evaluation": QUICK,
}
SWEEP: dict[str, Any] = {
    "kind": "sweep",
    "model": "tiny",
    "settings": [{"weight_bits": 4, "activation_bits": 8}],
    "evaluation": QUICK,
}
KINDS = [W4A8, EVALUATE, SWEEP]


def refused(client: TestClient, body: dict[str, Any]) -> dict[str, Any]:
    """Return the problem that a body is answered with, its first error as `error`."""
    response = client.post("/jobs", json=body)
    assert response.status_code in {404, 409, 422}, response.text
    problem: dict[str, Any] = response.json()
    error = problem.pop("errors")[0]
    assert client.get("/jobs").json()["data"] == []
    return problem | {"error": error, "pointer": error["pointer"]}

import pytest
from starlette.testclient import TestClient


@pytest.mark.parametrize("path", ["/healthz", "/nothing", "/jobs?limit=0"])
def test_the_callers_id_is_kept(client: TestClient, path: str) -> None:
    response = client.get(path, headers={"X-Request-Id": "trace-1.a_B"})
    assert response.headers["X-Request-Id"] == "trace-1.a_B"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a\tb", "<script>"])
def test_an_id_that_is_not_well_formed_is_replaced(
    client: TestClient, given: str
) -> None:
    made = client.get("/healthz", headers={"X-Request-Id": given})
    assert made.headers["X-Request-Id"] != given
    assert len(made.headers["X-Request-Id"]) == 32


def test_each_request_has_an_id_of_its_own(client: TestClient) -> None:
    made = {client.get("/healthz").headers["X-Request-Id"] for _ in range(3)}
    assert len(made) == 3

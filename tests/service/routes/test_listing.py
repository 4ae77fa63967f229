import pytest
from starlette.testclient import TestClient

from tests.service.models import W4A8


def test_pages_follow_one_another_without_gap_or_overlap(client: TestClient) -> None:
    made = [client.post("/jobs", json=W4A8).json()["id"] for _ in range(5)]
    seen: list[str] = []
    url: str | None = "/jobs?limit=2"
    while url:
        page = client.get(url)
        seen += [job["id"] for job in page.json()["data"]]
        assert page.json()["first_id"] == page.json()["data"][0]["id"]
        assert page.json()["last_id"] == seen[-1]
        assert page.json()["has_more"] == ("next" in page.links)
        assert (page.json()["next"] is not None) == page.json()["has_more"]
        url = page.links.get("next", {}).get("url")
    assert seen == made[::-1]
    assert [job["id"] for job in client.get("/jobs?order=asc").json()["data"]] == made


def test_a_listing_can_be_narrowed_to_a_status(client: TestClient, job_id: str) -> None:
    other = client.post("/jobs", json=W4A8).json()["id"]
    client.post(f"/jobs/{other}/cancel")
    found = {
        status: [
            job["id"] for job in client.get(f"/jobs?status={status}").json()["data"]
        ]
        for status in ("queued", "cancelled", "running")
    }
    assert found == {"queued": [job_id], "cancelled": [other], "running": []}


def test_an_empty_listing_has_no_ids(client: TestClient) -> None:
    assert client.get("/jobs").json() == {
        "object": "list",
        "data": [],
        "has_more": False,
        "first_id": None,
        "last_id": None,
        "next": None,
    }


def test_a_cursor_is_good_for_its_own_listing_only(client: TestClient) -> None:
    for _ in range(2):
        client.post("/jobs", json=W4A8)
    cursor = client.get("/jobs?limit=1").json()["next"]
    assert client.get(f"/jobs?after={cursor}").status_code == 200
    tampered = ("A" if cursor[0] != "A" else "B") + cursor[1:]
    for query in (
        f"after={tampered}",
        f"after={cursor[:-4]}",
        "after=!!!",
        f"after={cursor}&order=asc",
        f"after={cursor}&status=queued",
    ):
        response = client.get(f"/jobs?{query}")
        assert response.status_code == 422
        (error,) = response.json()["errors"]
        assert (error["parameter"], error["code"]) == ("after", "cursor_invalid")


@pytest.mark.parametrize(
    ("query", "name", "allowed"),
    [
        ("limit=0", "limit", {"minimum": 1, "maximum": 100}),
        ("limit=101", "limit", {"minimum": 1, "maximum": 100}),
        ("order=up", "order", ["desc", "asc"]),
        ("page=2", "page", ["status", "limit", "after", "order"]),
    ],
)
def test_a_bad_parameter_is_refused_with_what_is_allowed(
    client: TestClient, query: str, name: str, allowed: object
) -> None:
    response = client.get(f"/jobs?{query}")
    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert (error["parameter"], error["allowed"]) == (name, allowed)

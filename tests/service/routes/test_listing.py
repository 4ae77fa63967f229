import pytest
from starlette.testclient import TestClient

from jobs.settings import Settings
from tests.service import ledger
from tests.service.evaluations import QUICK, network, score
from tests.service.ledger import Sessions
from tests.service.models import W4A8
from tests.service.refusals import SWEEP


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


def test_every_kind_of_job_is_listed_and_a_listing_can_be_narrowed_to_one(
    client: TestClient, job_id: str
) -> None:
    evaluation = {"kind": "evaluate", "target": {"model": "tiny"}, "evaluation": QUICK}
    bits = [{"weight_bits": 4, "activation_bits": 8}]
    sweep = {"kind": "sweep", "model": "tiny", "settings": bits, "evaluation": QUICK}
    made = {
        "quantize": job_id,
        "evaluate": client.post("/jobs", json=evaluation).json()["id"],
        "sweep": client.post("/jobs", json=sweep).json()["id"],
    }
    client.post(
        "/sample",
        json={"target": {"model": "tiny"}},
        headers={"Prefer": "respond-async"},
    )
    listed = client.get("/jobs").json()["data"]
    assert {job["kind"]: job["id"] for job in listed} == made
    assert len(listed) == 3
    for kind, made_id in made.items():
        data = client.get(f"/jobs?kind={kind}").json()["data"]
        assert [job["id"] for job in data] == [made_id]


def test_a_narrowed_listing_stays_narrow_on_every_page(client: TestClient) -> None:
    made = [client.post("/jobs", json=W4A8).json()["id"] for _ in range(2)]
    page = client.get("/jobs?kind=quantize&limit=1")
    following = client.get(page.links["next"]["url"]).json()
    assert [job["id"] for job in following["data"]] == made[:1]
    assert "kind=quantize" in page.links["next"]["url"]


def test_a_sweeps_points_are_listed_without_their_records(
    client: TestClient, settings: Settings, sessions: Sessions
) -> None:
    made = client.post("/jobs", json=SWEEP).json()["id"]
    record = score(network(settings.evaluation_directory))
    point = {"checkpoint": {"sha256": "a" * 64}, "score": 12.5, "scores": [record]}
    ledger.end(sessions, made, {"points": [point], "score_label": "FD"})
    (listed,) = client.get("/jobs").json()["data"]
    assert listed["result"]["score_label"] == "FD"
    assert listed["result"]["points"] == [
        {"checkpoint": {"sha256": "a" * 64}, "score": 12.5}
    ]
    assert client.get(f"/jobs/{made}").json()["result"]["points"] == [point]


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
        f"after={cursor}&kind=quantize",
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
        ("kind=sample", "kind", ["quantize", "evaluate", "sweep"]),
        ("page=2", "page", ["kind", "status", "limit", "after", "order"]),
    ],
)
def test_a_bad_parameter_is_refused_with_what_is_allowed(
    client: TestClient, query: str, name: str, allowed: object
) -> None:
    response = client.get(f"/jobs?{query}")
    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert (error["parameter"], error["allowed"]) == (name, allowed)

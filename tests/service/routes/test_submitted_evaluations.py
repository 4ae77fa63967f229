"""What is queued of each kind of job that scores something."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from jobs.artifacts import LocalStore
from jobs.ids import parse_id
from jobs.models import Job, JobKind
from jobs.settings import Settings
from tcaq_core.evaluation.plan import EvaluationPlan
from tcaq_core.evaluation.reference_file import find_reference, read_reference
from tcaq_core.evaluation.spec import Evaluation, Guards
from tests.service import ledger
from tests.service.evaluations import NETWORK, QUICK, REFERENCE, network
from tests.service.ledger import Sessions
from tests.service.models import W4A8


def queued(sessions: Sessions, job_id: str) -> Job:
    with sessions.begin() as session:
        return session.get_one(Job, parse_id(job_id))


def submit(client: TestClient, body: dict[str, Any]) -> dict[str, Any]:
    response = client.post("/jobs", json=body)
    assert response.status_code == 202, response.text
    answer: dict[str, Any] = response.json()
    assert response.headers["Location"] == f"/jobs/{answer['id']}"
    assert client.get(f"/jobs/{answer['id']}").json() == answer
    return answer


def test_a_quantization_is_scored_where_that_is_asked_for(
    client: TestClient, sessions: Sessions, settings: Settings
) -> None:
    guards = {"max_fd_increase": 3, "on_violation": "raise_bits"}
    body = W4A8 | {"evaluation": QUICK, "guards": guards}
    job = submit(client, body)
    assert (job["kind"], job["guards"]["max_fd_increase"]) == ("quantize", 3.0)
    plan = EvaluationPlan.model_validate(job["evaluation"])
    assert plan.metrics == ("fd", "psnr_db", "ssim", "feature_distance")
    assert plan.changed == ("num_images", "extractor", "reference")
    assert (plan.num_images, plan.sampling.num_steps, plan.baseline) == (100, 50, True)
    assert plan.extractor == network(settings.evaluation_directory)
    path = find_reference(REFERENCE, directory=settings.evaluation_directory)
    assert plan.reference == read_reference(path)
    request = queued(sessions, job["id"]).request
    assert EvaluationPlan.model_validate(request["plan"]) == plan
    assert Evaluation.model_validate(request["evaluation"]).extractor == NETWORK
    assert Guards.model_validate(request["guards"]).on_violation == "raise_bits"


def test_a_quantization_is_not_scored_unless_that_is_asked_for(
    client: TestClient, sessions: Sessions
) -> None:
    job = submit(client, W4A8)
    assert (job["evaluation"], job["guards"]) == (None, None)
    request = queued(sessions, job["id"]).request
    assert [request[key] for key in ("evaluation", "guards", "plan")] == [None] * 3


def test_the_reference_lies_in_the_store_before_the_job_is_queued(
    client: TestClient, store: LocalStore
) -> None:
    job = submit(client, W4A8 | {"evaluation": QUICK})
    sha256 = job["evaluation"]["reference"]["stats_sha256"]
    assert store.exists(sha256)
    assert job["evaluation"]["reference"]["info"]["name"] == REFERENCE


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_stored_reference_that_is_damaged_is_stored_anew(
    client: TestClient, store: LocalStore, damage: str
) -> None:
    first = submit(client, W4A8 | {"evaluation": QUICK})["evaluation"]["reference"]
    path = store.path(first["stats_sha256"])
    assert path is not None
    whole = path.read_bytes()
    path.write_bytes(whole[:-8] + (b"" if damage == "cut" else b"\x00" * 7 + b"\x01"))
    submit(client, W4A8 | {"evaluation": QUICK})
    assert path.read_bytes() == whole


def test_a_checkpoint_is_evaluated_on_a_queue_of_its_own(
    client: TestClient,
    sessions: Sessions,
    store: LocalStore,
    settings: Settings,
    job_id: str,
) -> None:
    sha256 = ledger.succeed(sessions, store, job_id)
    before = set(ledger.messages(settings))
    for target in ({"job_id": job_id}, {"checkpoint": sha256}):
        body = {
            "kind": "evaluate",
            "target": target,
            "evaluation": QUICK,
            "execution": "simulated",
            "labels": {"team": "a"},
        }
        job = submit(client, body)
        assert (job["kind"], job["recipe"], job["exports"]) == ("evaluate", None, [])
        assert job["labels"] == {"team": "a"}
        assert job["evaluation"]["baseline"] is True
        row = queued(sessions, job["id"])
        assert row.kind == JobKind.EVALUATE
        assert row.request["target"] == target
        assert row.request["execution"] == "simulated"
    rung = set(ledger.messages(settings)) - before
    assert [path.name.rsplit(".", 2)[1] for path in rung] == ["evaluate"] * 2


def test_the_model_behind_a_checkpoint_is_named(
    client: TestClient, sessions: Sessions, store: LocalStore, job_id: str
) -> None:
    sha256 = ledger.succeed(sessions, store, job_id)
    targets = {
        "tiny": {"job_id": job_id},
        f"sha256:{sha256}": {"checkpoint": sha256},
    }
    for reference, target in targets.items():
        body = {"kind": "evaluate", "target": target, "evaluation": QUICK}
        assert submit(client, body)["model"]["reference"] == reference


def test_a_model_in_full_precision_is_its_own_baseline(
    client: TestClient, sessions: Sessions
) -> None:
    for said in ({}, {"baseline": True}, {"baseline": False}):
        body = {
            "kind": "evaluate",
            "target": {"model": "tiny"},
            "evaluation": QUICK | said,
        }
        job = submit(client, body)
        assert job["evaluation"]["metrics"] == ["fd"]
        assert job["evaluation"]["baseline"] is False
        request = queued(sessions, job["id"]).request
        assert request["evaluation"]["baseline"] is False
        assert request["target"] == {"model": "tiny"}


def test_metrics_without_a_network_need_neither_weights_nor_reference(
    client: TestClient,
) -> None:
    evaluation = {"protocol": "quick", "metrics": ["psnr_db"], "num_images": 2}
    plan = submit(client, W4A8 | {"evaluation": evaluation})["evaluation"]
    assert (plan["extractor"], plan["reference"]) == (None, None)


def test_a_sweep_keeps_its_settings_and_recipes(
    client: TestClient, sessions: Sessions
) -> None:
    method = {"passes": [{"kind": "fit_ranges"}]}
    settings = [
        {"weight_bits": 8, "activation_bits": 8},
        {"weight_bits": 4, "activation_bits": 8, "softmax_bits": 6},
    ]
    body = {
        "kind": "sweep",
        "model": "tiny",
        "settings": settings,
        "recipes": ["rtn", method],
        "calibration": {"num_samples": 2},
        "evaluation": QUICK,
    }
    job = submit(client, body)
    assert (job["kind"], job["recipe"], job["recipe_digest"]) == ("sweep", None, None)
    assert job["exports"] == ["safetensors"]
    request = queued(sessions, job["id"]).request
    assert request["settings"] == [settings[0] | {"softmax_bits": 8}, settings[1]]
    assert request["recipes"][0] == "rtn"
    assert request["recipes"][1]["passes"][0]["kind"] == "fit_ranges"
    assert request["calibration"]["num_samples"] == 2
    assert request["plan"] == job["evaluation"]


@pytest.mark.parametrize("kind", ["evaluate", "sweep"])
def test_a_job_waits_behind_those_of_its_own_kind_only(
    client: TestClient, kind: str, job_id: str
) -> None:
    assert client.get(f"/jobs/{job_id}").json()["queue"]["ahead"] == 0
    bodies: dict[str, dict[str, Any]] = {
        "evaluate": {"kind": "evaluate", "target": {"model": "tiny"}},
        "sweep": {
            "kind": "sweep",
            "model": "tiny",
            "settings": [{"weight_bits": 4, "activation_bits": 8}],
        },
    }
    body = bodies[kind] | {"evaluation": QUICK}
    assert [submit(client, body)["queue"]["ahead"] for _ in range(2)] == [0, 1]

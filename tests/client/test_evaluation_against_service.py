"""Evaluations and sweeps between the client and the real service."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tcaq_client import Client, Problem
from tests.client.answers import point
from tests.client.serving import Service, connected, finish, serving, submit
from tests.service import ledger
from tests.service.evaluations import QUICK, network, score


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with serving(tmp_path) as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with connected(service) as opened:
        yield opened


def test_a_checkpoint_is_evaluated_and_its_scores_are_read(
    service: Service, client: Client
) -> None:
    job_id = submit(client)
    finish(service, job_id)
    asked = client.evaluate(job_id, evaluation=QUICK, labels={"team": "a"})
    assert (asked.kind, asked.status, asked.scores) == ("evaluate", "queued", ())
    record = score(network(service.evaluation))
    result = {"evaluation": {"scores": [record]}}
    ledger.end(service.sessions, asked.id, result)
    (measured,) = client.wait(asked.id).scores
    assert (measured.value, measured.baseline, measured.delta) == (12.5, 10.25, 2.25)
    assert measured.raw == record
    assert [job.id for job in client.jobs(kind="evaluate")] == [asked.id]
    assert [job.kind for job in client.jobs()] == ["evaluate", "quantize"]


def test_a_quantization_is_queued_with_its_evaluation_and_guards(
    client: Client,
) -> None:
    guards = {"min_psnr_db": 20, "on_violation": "raise_bits"}
    asked = client.submit(
        "tiny", weight_bits=4, activation_bits=8, evaluation=QUICK, guards=guards
    )
    assert asked.raw["evaluation"]["protocol"] == "quick"
    assert asked.raw["guards"]["on_violation"] == "raise_bits"


def test_a_sweep_is_queued_and_its_picture_fetched(
    service: Service, client: Client
) -> None:
    asked = client.sweep(
        "tiny",
        settings=[{"weight_bits": 8, "activation_bits": 8}],
        recipes=["rtn", {"passes": [{"kind": "fit_ranges"}]}],
        evaluation=QUICK,
    )
    assert (asked.kind, asked.recipe, asked.points) == ("sweep", None, ())
    picture = service.store.put_bytes(ledger.PICTURE, media_type="image/png")
    stored = {"sha256": picture.sha256, "size_bytes": picture.size_bytes}
    result = {"points": [point(8, on_front=True)], "picture": stored}
    ledger.end(service.sessions, asked.id, result, {"pareto.png": picture})
    assert client.pareto_picture(asked.id) == ledger.PICTURE
    (made,) = client.job(asked.id).points
    assert (made.weight_bits, made.is_on_front) == (8, True)


def test_what_an_evaluation_lacks_is_said_with_the_remedy(client: Client) -> None:
    with pytest.raises(Problem) as caught:
        client.evaluate("tiny", evaluation="cifar10-50k")
    assert caught.value.code == "extractor_unavailable"
    assert caught.value.errors[0].where == "/evaluation/extractor"
    assert "TCAQ_INCEPTION_WEIGHTS" in caught.value.hint


def test_protocols_are_understood(client: Client) -> None:
    found = {protocol.name: protocol for protocol in client.protocols()}
    assert found["quick"].num_images == 2000
    assert "TCAQ_INCEPTION_WEIGHTS" in found["cifar10-50k"].hint

import json
from typing import Any

import httpx2
import pytest

from tcaq_client import ChecksumMismatch, Client
from tcaq_client.results import Job
from tests.client.answers import (
    JOB_ID,
    PNG,
    evaluated,
    job,
    point,
    score,
    succeeded,
    swept,
)
from tests.client.conftest import Connect, in_turn


@pytest.fixture
def bodies() -> list[dict[str, Any]]:
    """Every body that was sent through `client`."""
    return []


@pytest.fixture
def client(connect: Connect, bodies: list[dict[str, Any]]) -> Client:
    """Return a client whose service queues everything."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        assert (request.method, request.url.path) == ("POST", "/jobs")
        bodies.append(json.loads(request.content))
        return httpx2.Response(202, json=job())

    return connect(answer)


def test_a_quantization_is_scored_and_guarded_where_that_is_said(
    client: Client, bodies: list[dict[str, Any]]
) -> None:
    for evaluation in ("quick", {"protocol": "quick", "seed": 5}):
        client.submit(
            "m",
            weight_bits=4,
            activation_bits=8,
            evaluation=evaluation,
            guards={"min_psnr_db": 25},
        )
    least = {"model": "m", "weight_bits": 4, "activation_bits": 8, "recipe": "standard"}
    guards = {"guards": {"min_psnr_db": 25}}
    assert bodies == [
        least | {"evaluation": {"protocol": "quick"}} | guards,
        least | {"evaluation": {"protocol": "quick", "seed": 5}} | guards,
    ]


@pytest.mark.parametrize(
    ("target", "member"),
    [
        (JOB_ID, {"job_id": JOB_ID}),
        ("a" * 64, {"checkpoint": "a" * 64}),
        ("ddpm-cifar10-small", {"model": "ddpm-cifar10-small"}),
    ],
)
def test_an_evaluation_says_what_is_scored(
    client: Client, bodies: list[dict[str, Any]], target: str, member: dict[str, str]
) -> None:
    client.evaluate(target)
    client.evaluate(
        target, evaluation="quick", execution="simulated", labels={"team": "a"}
    )
    assert bodies == [
        {"kind": "evaluate", "target": member, "execution": "auto"},
        {
            "kind": "evaluate",
            "target": member,
            "execution": "simulated",
            "evaluation": {"protocol": "quick"},
            "labels": {"team": "a"},
        },
    ]


def test_a_sweep_says_its_settings_and_recipes(
    client: Client, bodies: list[dict[str, Any]]
) -> None:
    settings = [{"weight_bits": 4, "activation_bits": 8}]
    method = {"passes": [{"kind": "fit_ranges"}]}
    client.sweep("m", settings=settings)
    client.sweep(
        "m",
        settings=settings,
        recipes=["rtn", method],
        calibration={"num_samples": 2},
        evaluation={"protocol": "quick"},
        labels={"team": "a"},
    )
    least = {"kind": "sweep", "model": "m", "settings": settings}
    assert bodies == [
        least | {"recipes": ["standard"]},
        least
        | {
            "recipes": ["rtn", method],
            "calibration": {"num_samples": 2},
            "evaluation": {"protocol": "quick"},
            "labels": {"team": "a"},
        },
    ]


def test_scores_are_read_with_their_types() -> None:
    infinite = score("psnr_db", value=None, ci95=None, baseline=None, notes=["Equal."])
    fd, psnr = Job.from_json(evaluated(score(), infinite)).scores
    assert (fd.metric, fd.label, fd.value) == ("fd", "FD-tiny-net", 12.5)
    assert (fd.ci95, fd.delta_ci95) == ((12.0, 13.0), (2.0, 2.5))
    assert (fd.baseline, fd.delta) == (10.25, 2.25)
    assert (fd.protocol, fd.changed) == ("quick", ("num_images",))
    assert (fd.num_images, fd.execution, fd.notes) == (2000, "integer", ())
    assert fd.raw == score()
    assert (psnr.value, psnr.ci95, psnr.baseline, psnr.delta) == (None,) * 4
    assert psnr.notes == ("Equal.",)


def test_a_sweep_s_points_are_read_with_their_types() -> None:
    first, second = Job.from_json(swept()).points
    assert (first.weight_bits, first.activation_bits, first.softmax_bits) == (8, 8, 8)
    assert (first.recipe, first.num_bytes) == ("rtn", 2_400_000)
    assert first.checkpoint_sha256 == f"{8:064x}"
    assert (first.ms_per_image, first.score) == (12.34, 12.5)
    assert (first.is_on_front, second.is_on_front) == (True, False)
    assert (second.ms_per_image, second.score) == (None, None)
    assert [item.metric for item in first.scores] == ["fd"]
    assert first.raw == point(8, on_front=True)


def test_a_job_without_an_evaluation_has_no_scores_and_no_points() -> None:
    for document in (job(), succeeded(), job("failed", result={"evaluation": None})):
        found = Job.from_json(document)
        assert (found.scores, found.points) == ((), ())


def test_the_picture_of_a_sweep_is_fetched_and_checked(connect: Connect) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.startswith("/artifacts/"):
            return httpx2.Response(200, content=content)
        return httpx2.Response(200, json=swept())

    content = PNG
    assert connect(answer).pareto_picture(JOB_ID) == PNG
    content = PNG + b"!"
    with pytest.raises(ChecksumMismatch):
        connect(answer).pareto_picture(JOB_ID)


def test_another_job_has_no_picture(connect: Connect) -> None:
    client = connect(in_turn(httpx2.Response(200, json=job())))
    with pytest.raises(ValueError, match="no sweep"):
        client.pareto_picture(JOB_ID)


def test_a_listing_is_narrowed_to_a_kind(connect: Connect) -> None:
    asked = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(dict(request.url.params))
        page = {"data": [evaluated(score())], "has_more": False, "next": None}
        return httpx2.Response(200, json=page)

    (found,) = connect(answer).jobs(kind="evaluate")
    assert (found.kind, found.scores[0].value) == ("evaluate", 12.5)
    assert asked[0]["kind"] == "evaluate"


def test_protocols_say_whether_they_can_be_used(connect: Connect) -> None:
    good = {
        "name": "quick",
        "description": "A first look.",
        "usable": True,
        "protocol": {"num_images": 2000},
    }
    bad = {
        **good,
        "name": "cifar10-50k",
        "usable": False,
        "reason": "No weights.",
        "hint": "Set TCAQ_INCEPTION_WEIGHTS.",
    }
    page = {"object": "list", "data": [good, bad]}
    quick, cifar = connect(in_turn(httpx2.Response(200, json=page))).protocols()
    assert (quick.is_usable, quick.reason, quick.num_images) == (True, "", 2000)
    assert (cifar.is_usable, cifar.reason) == (False, "No weights.")
    assert cifar.hint == "Set TCAQ_INCEPTION_WEIGHTS."

import json
from datetime import UTC, datetime

import httpx2
import pytest

from tcaq_client import JobFailed, Problem
from tcaq_client.results import Job
from tests.client.answers import (
    JOB_ID,
    failed,
    job,
    problem,
    running,
)
from tests.client.conftest import Connect, in_turn


def test_a_submission_sends_what_was_said_and_nothing_else(connect: Connect) -> None:
    bodies = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        assert (request.method, request.url.path) == ("POST", "/jobs")
        bodies.append(json.loads(request.content))
        return httpx2.Response(202, json=job())

    client = connect(answer)
    client.submit("m", weight_bits=4, activation_bits=8)
    client.submit(
        "m",
        weight_bits=4,
        activation_bits=8,
        recipe={"passes": [{"kind": "fit_ranges"}]},
        softmax_bits=6,
        calibration={"num_samples": 4},
        labels={"team": "a"},
    )
    least = {"model": "m", "weight_bits": 4, "activation_bits": 8, "recipe": "standard"}
    assert bodies == [
        least,
        {
            **least,
            "recipe": {"passes": [{"kind": "fit_ranges"}]},
            "softmax_bits": 6,
            "calibration": {"num_samples": 4},
            "labels": {"team": "a"},
        },
    ]


def test_a_job_is_read_with_its_types(connect: Connect) -> None:
    document = running(
        "daq",
        41.8,
        started_at="2026-11-20T10:00:01+00:00",
        steps=[
            {
                "name": "fetch",
                "status": "succeeded",
                "started_at": "2026-11-20T10:00:01Z",
                "finished_at": "2026-11-20T10:00:03.500Z",
            },
            {
                "name": "daq",
                "status": "running",
                "started_at": "2026-11-20T10:00:03Z",
                "finished_at": None,
            },
        ],
    )
    found = connect(in_turn(httpx2.Response(200, json=document))).job(JOB_ID)
    assert (found.id, found.status, found.model) == (
        JOB_ID,
        "running",
        "ddpm-cifar10-small",
    )
    assert found.created_at == datetime(2026, 11, 20, 10, tzinfo=UTC)
    assert found.progress.stage == "daq"
    assert found.progress.percent == 41.8
    assert found.progress.eta_seconds == 200.0
    assert [step.seconds for step in found.steps] == [2.5, None]
    assert found.raw == document
    assert not found.is_terminal


def test_an_id_is_one_segment_of_the_path(connect: Connect) -> None:
    seen = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.url.raw_path)
        return httpx2.Response(404, json=problem(404, "job_not_found"))

    with pytest.raises(Problem):
        connect(answer).job("../models?x=1")
    assert seen == [b"/jobs/..%2Fmodels%3Fx%3D1"]


def test_jobs_come_page_after_page_as_they_are_consumed(connect: Connect) -> None:
    asked = []
    ids = [f"job_{number:032x}" for number in range(5)]

    def answer(request: httpx2.Request) -> httpx2.Response:
        query = dict(request.url.params)
        asked.append(query)
        start = int(query.get("after", 0))
        rest = ids[start : start + 2]
        has_more = start + 2 < len(ids)
        page = {
            "object": "list",
            "data": [job(id=i) for i in rest],
            "has_more": has_more,
            "next": str(start + 2) if has_more else None,
        }
        return httpx2.Response(200, json=page)

    found = connect(answer).jobs(status="queued", page_size=2)
    assert [next(found).id, next(found).id] == ids[:2]
    assert len(asked) == 1
    assert [j.id for j in found] == ids[2:]
    first = {"limit": "2", "order": "desc", "status": "queued"}
    assert asked == [first, {**first, "after": "2"}, {**first, "after": "4"}]


def test_waiting_looks_as_often_as_retry_after_asks(
    connect: Connect, pauses: list[float]
) -> None:
    states = in_turn(
        httpx2.Response(200, json=job(), headers={"Retry-After": "5"}),
        httpx2.Response(200, json=running("tcr", 20.0), headers={"Retry-After": "3"}),
        httpx2.Response(200, json=running("daq", 60.0)),
        httpx2.Response(200, json=job("succeeded")),
    )
    seen: list[Job] = []
    done = connect(states).wait(JOB_ID, seen.append)
    assert done.status == "succeeded"
    assert [j.progress.percent for j in seen] == [0.0, 20.0, 60.0, 0.0]
    assert pauses == [5.0, 3.0, 2.0]


def test_an_unchanged_job_costs_no_body_and_is_not_reported_again(
    connect: Connect, pauses: list[float]
) -> None:
    tags = []
    states = in_turn(
        httpx2.Response(200, json=running("tcr", 20.0), headers={"ETag": '"7"'}),
        httpx2.Response(304, headers={"ETag": '"7"', "Retry-After": "4"}),
        httpx2.Response(200, json=job("succeeded"), headers={"ETag": '"8"'}),
    )

    def answer(request: httpx2.Request) -> httpx2.Response:
        tags.append(request.headers.get("If-None-Match"))
        return states(request)

    seen: list[Job] = []
    connect(answer).wait(JOB_ID, seen.append)
    assert tags == [None, '"7"', '"7"']
    assert [j.status for j in seen] == ["running", "succeeded"]
    assert pauses == [2.0, 4.0]


def test_waiting_for_a_job_that_fails_says_why(connect: Connect) -> None:
    seen: list[Job] = []
    with pytest.raises(JobFailed, match="NaN") as caught:
        connect(in_turn(httpx2.Response(200, json=failed()))).wait(JOB_ID, seen.append)
    assert caught.value.job_id == JOB_ID
    assert caught.value.status == "failed"
    assert caught.value.failure is not None
    assert caught.value.failure.code == "diverged"
    assert caught.value.hint == "Lower par.learning_rate."
    assert [j.status for j in seen] == ["failed"]


def test_waiting_for_a_cancelled_job_is_no_success(connect: Connect) -> None:
    with pytest.raises(JobFailed, match="cancelled") as caught:
        connect(in_turn(httpx2.Response(200, json=job("cancelled")))).wait(JOB_ID)
    assert caught.value.failure is None


def test_what_the_progress_function_raises_ends_the_wait(connect: Connect) -> None:
    def stop(_: Job) -> None:
        raise KeyboardInterrupt

    client = connect(in_turn(httpx2.Response(200, json=job())))
    with pytest.raises(KeyboardInterrupt):
        client.wait(JOB_ID, stop)


def test_cancelling_posts_and_returns_the_job(connect: Connect) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        path = f"/jobs/{JOB_ID}/cancel"
        assert (request.method, request.url.path) == ("POST", path)
        return httpx2.Response(202, json=job("cancelling"))

    assert connect(answer).cancel(JOB_ID).status == "cancelling"


def test_models_say_whether_they_can_be_used(connect: Connect) -> None:
    page = {
        "object": "list",
        "data": [
            {
                "name": "good",
                "usable": True,
                "num_parameters": 4_600_000,
                "sample_size": 32,
            },
            {"name": "bad", "usable": False, "reason": "It is pickled."},
        ],
    }
    good, bad = connect(in_turn(httpx2.Response(200, json=page))).models()
    assert (good.name, good.is_usable, good.num_parameters) == ("good", True, 4_600_000)
    assert (bad.is_usable, bad.reason, bad.sample_size) == (
        False,
        "It is pickled.",
        None,
    )


def test_recipes_say_which_passes_they_are(connect: Connect) -> None:
    method = {"passes": [{"kind": "tcr"}, {"kind": "fit_ranges"}]}
    preset = {"name": "tcaq", "description": "Ours.", "recipe": {"method": method}}
    page = {"object": "list", "data": [preset]}
    (found,) = connect(in_turn(httpx2.Response(200, json=page))).recipes()
    assert (found.name, found.passes) == ("tcaq", ("tcr", "fit_ranges"))

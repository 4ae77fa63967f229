import json

import httpx2
import pytest

from tcaq_client import ChecksumMismatch, JobFailed, UnexpectedAnswer
from tests.client.answers import (
    JOB_ID,
    PNG,
    PNG_SHA256,
    SAMPLE_ID,
    failed,
    sample,
)
from tests.client.conftest import Connect, in_turn


@pytest.mark.parametrize(
    ("target", "member"),
    [
        (JOB_ID, {"job_id": JOB_ID}),
        ("a" * 64, {"checkpoint": "a" * 64}),
        ("ddpm-cifar10-small", {"model": "ddpm-cifar10-small"}),
        (f"google/ddpm@{'b' * 40}", {"model": f"google/ddpm@{'b' * 40}"}),
        ("job_short", {"model": "job_short"}),
    ],
)
def test_a_sample_says_what_it_is_drawn_from(
    connect: Connect, target: str, member: dict[str, str]
) -> None:
    requests = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return httpx2.Response(200, json=sample())

    drawn = connect(answer).sample(
        target,
        n=2,
        seed=5,
        steps=10,
        eta=0.5,
        compare_to="baseline",
        execution="integer",
    )
    assert json.loads(requests[0].content) == {
        "target": member,
        "compare_to": "baseline",
        "execution": "integer",
        "n": 2,
        "seeds": {"start": 5},
        "sampler": {"steps": 10, "eta": 0.5},
        "output": {"format": "png", "grid": True},
    }
    assert requests[0].headers["Accept"] == "application/json"
    assert [image.seed for image in drawn.images] == [5, 6]
    assert drawn.baseline is not None
    assert drawn.grid.sha256 == PNG_SHA256
    assert drawn.psnr_db == 31.5
    assert (drawn.execution, drawn.kernels) == ("integer", "onednn-int8")


def test_a_sample_without_baseline_has_no_psnr(connect: Connect) -> None:
    document = sample(baseline=None, metrics=None, execution_details=None)
    drawn = connect(in_turn(httpx2.Response(200, json=document))).sample(JOB_ID)
    assert drawn.baseline is None
    assert drawn.kernels is None
    assert drawn.psnr_db is None


def later(**headers: str) -> httpx2.Response:
    document = sample("queued", images=None, grid=None, execution=None)
    place = {"Location": f"/samples/{SAMPLE_ID}", **headers}
    return httpx2.Response(202, json=document, headers=place)


def test_a_sample_that_takes_long_is_looked_for_until_it_is_there(
    connect: Connect, pauses: list[float]
) -> None:
    answers = in_turn(
        later(**{"Retry-After": "9"}),
        httpx2.Response(200, json=sample("running", images=None)),
        httpx2.Response(200, json=sample()),
    )
    paths = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        paths.append((request.method, request.url.path))
        return answers(request)

    assert connect(answer).sample(JOB_ID).id == SAMPLE_ID
    assert paths == [
        ("POST", "/sample"),
        ("GET", f"/samples/{SAMPLE_ID}"),
        ("GET", f"/samples/{SAMPLE_ID}"),
    ]
    assert pauses == [9.0, 2.0]


def test_a_sample_that_fails_later_says_why(connect: Connect) -> None:
    gone = sample("failed", images=None, error=failed()["error"])
    client = connect(in_turn(later(), httpx2.Response(200, json=gone)))
    with pytest.raises(JobFailed, match="NaN") as caught:
        client.sample(JOB_ID)
    assert caught.value.job_id == SAMPLE_ID


def test_a_place_outside_the_service_is_not_followed(connect: Connect) -> None:
    client = connect(in_turn(later(Location="http://elsewhere/samples/1")))
    with pytest.raises(UnexpectedAnswer):
        client.sample(JOB_ID)


def test_a_png_comes_in_one_request(connect: Connect) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.headers["Accept"] == "image/png"
        assert request.headers["Prefer"].startswith("wait=")
        png = {"Content-Type": "image/png"}
        return httpx2.Response(200, content=PNG, headers=png)

    assert connect(answer).sample_png(JOB_ID, n=4) == PNG


def test_a_png_that_takes_long_is_fetched_from_the_store(connect: Connect) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        match request.url.path:
            case "/sample":
                return later()
            case path if path.startswith("/samples/"):
                return httpx2.Response(200, json=sample())
            case path:
                assert path == f"/artifacts/{PNG_SHA256}/content"
                return httpx2.Response(200, content=PNG)

    assert connect(answer).sample_png(JOB_ID) == PNG


def test_an_image_with_other_content_is_refused(connect: Connect) -> None:
    answers = in_turn(
        httpx2.Response(200, json=sample()), httpx2.Response(200, content=b"other")
    )
    client = connect(answers)
    with pytest.raises(ChecksumMismatch):
        client.image(client.sample(JOB_ID).grid)

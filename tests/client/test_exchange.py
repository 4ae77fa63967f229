from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx2
import pytest

from tcaq_client import Client, ConnectionFailed, Problem, UnexpectedAnswer
from tcaq_client.exchange import BACKOFF_SECONDS, MAX_PAUSE_SECONDS, retry_after
from tests.client.answers import JOB_ID, job, problem
from tests.client.conftest import Connect


def refusing(_: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("Connection refused")


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "::"])
def test_what_is_no_web_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        Client(url)


def test_a_path_before_the_routes_is_kept() -> None:
    seen = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(str(request.url))
        return httpx2.Response(200, json=job())

    url = "https://host/quantization/"
    with Client(url, transport=httpx2.MockTransport(answer)) as client:
        client.job(JOB_ID)
    assert seen == [f"https://host/quantization/jobs/{JOB_ID}"]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_get_is_repeated_until_it_is_answered(
    connect: Connect, pauses: list[float], status: int
) -> None:
    answers = iter(
        [
            httpx2.Response(status, text="later"),
            httpx2.Response(status, text="later"),
            httpx2.Response(200, json=job()),
        ]
    )
    assert connect(lambda _: next(answers)).job(JOB_ID).id == JOB_ID
    assert pauses == list(BACKOFF_SECONDS[:2])


def test_a_repeated_get_honours_retry_after(
    connect: Connect, pauses: list[float]
) -> None:
    answers = iter(
        [
            httpx2.Response(503, headers={"Retry-After": "7"}),
            httpx2.Response(200, json=job()),
        ]
    )
    connect(lambda _: next(answers)).job(JOB_ID)
    assert pauses == [7.0]


def test_a_get_survives_a_connection_that_breaks(connect: Connect) -> None:
    attempts = []

    def answer(_: httpx2.Request) -> httpx2.Response:
        attempts.append(1)
        if len(attempts) < 3:
            raise httpx2.ReadTimeout("too slow")
        return httpx2.Response(200, json=job())

    assert connect(answer).job(JOB_ID).id == JOB_ID


def test_a_get_gives_up_in_the_end(connect: Connect, pauses: list[float]) -> None:
    with pytest.raises(ConnectionFailed, match=r"http://service.*refused") as caught:
        connect(refusing).job(JOB_ID)
    assert pauses == list(BACKOFF_SECONDS)
    assert "tcaq up" in caught.value.hint


def test_the_last_refusal_is_reported_when_waiting_did_not_help(
    connect: Connect,
) -> None:
    document = problem(503, "queue_unavailable", detail="The broker is down.")
    with pytest.raises(Problem, match="broker") as caught:
        connect(lambda _: httpx2.Response(503, json=document)).job(JOB_ID)
    assert caught.value.code == "queue_unavailable"


def test_a_post_is_never_repeated(connect: Connect, pauses: list[float]) -> None:
    requests = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        raise httpx2.ReadTimeout("too slow")

    with pytest.raises(ConnectionFailed):
        connect(answer).submit("model", weight_bits=4, activation_bits=8)
    assert len(requests) == 1
    assert pauses == []


def test_a_refusal_other_than_overload_is_not_repeated(
    connect: Connect, pauses: list[float]
) -> None:
    with pytest.raises(Problem):
        connect(lambda _: httpx2.Response(500, text="")).job(JOB_ID)
    assert pauses == []


def test_a_problem_carries_every_member_of_the_document(connect: Connect) -> None:
    document = problem(
        422,
        "request_invalid",
        hint="See GET /recipes.",
        errors=[
            {
                "pointer": "/activation_bits",
                "code": "unsupported_value",
                "detail": "3 is not supported.",
                "allowed": [4, 8],
            },
            {"parameter": "limit", "code": "too_large", "detail": "At most 100."},
        ],
    )
    with pytest.raises(Problem) as caught:
        connect(lambda _: httpx2.Response(422, json=document)).job(JOB_ID)
    error = caught.value
    assert (error.status, error.code, error.title) == (
        422,
        "request_invalid",
        "Not valid",
    )
    assert error.detail == "The request is not valid."
    assert error.hint == "See GET /recipes."
    assert error.request_id == "req-1"
    assert [field.where for field in error.errors] == ["/activation_bits", "limit"]
    assert error.errors[0].allowed == [4, 8]


@pytest.mark.parametrize("body", ["<html>Bad gateway</html>", "[]", "null", ""])
def test_an_error_that_is_no_problem_document_is_still_one(
    connect: Connect, body: str
) -> None:
    with pytest.raises(Problem) as caught:
        connect(lambda _: httpx2.Response(500, text=body)).job(JOB_ID)
    assert caught.value.status == 500
    assert caught.value.code == "http_500"
    assert caught.value.detail


@pytest.mark.parametrize("body", ["<html>", "[]", "{}", '{"id": "job_1"}', "null"])
def test_an_answer_that_is_no_job_is_reported_as_such(
    connect: Connect, body: str
) -> None:
    with pytest.raises(UnexpectedAnswer, match="promised"):
        connect(lambda _: httpx2.Response(200, text=body)).job(JOB_ID)


def test_a_redirect_is_not_followed_silently(connect: Connect) -> None:
    elsewhere = {"Location": "https://elsewhere/"}
    with pytest.raises(UnexpectedAnswer, match="elsewhere"):
        connect(lambda _: httpx2.Response(307, headers=elsewhere)).job(JOB_ID)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5.0),
        ("0", 0.0),
        ("86400", MAX_PAUSE_SECONDS),
        ("-5", 2.0),
        ("soon", 2.0),
        ("", 2.0),
        ("Mon, 20 Nov 2000 10:00:00 GMT", 0.0),
    ],
)
def test_retry_after_is_read_within_limits(text: str, seconds: float) -> None:
    response = httpx2.Response(503, headers={"Retry-After": text})
    assert retry_after(response, default=2.0) == seconds


def test_retry_after_may_be_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    response = httpx2.Response(503, headers={"Retry-After": date})
    # The date has whole seconds, and the test takes some.
    assert 0 < retry_after(response, default=2.0) <= 30

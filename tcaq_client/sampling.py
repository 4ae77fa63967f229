"""POST /sample: the request, and its answer now or later."""

from dataclasses import dataclass
from typing import Final, Literal

import httpx2

from tcaq_client.errors import JobFailed, UnexpectedAnswer
from tcaq_client.exchange import Exchange, parsed, retry_after
from tcaq_client.requests import target_of
from tcaq_client.results import TERMINAL, Failure, JsonObject

HOLD_SECONDS: Final = 60
"""How long the service may hold one request before we look in from time to time."""
POLL_SECONDS: Final = 2.0
"""Pause between two looks when the service names none."""

Execution = Literal["auto", "integer", "simulated"]
"""How a checkpoint computes; ``auto`` is on integers wherever that can be."""


@dataclass(frozen=True)
class SampleRequest:
    """What to draw; see `Client.sample`."""

    target: str
    n: int
    seed: int
    steps: int
    eta: float
    compare_to: Literal["baseline"] | None
    execution: Execution

    def body(self) -> JsonObject:
        """Return the body of POST /sample."""
        return {
            "target": target_of(self.target),
            "compare_to": self.compare_to,
            "execution": self.execution,
            "n": self.n,
            "seeds": {"start": self.seed},
            "sampler": {"steps": self.steps, "eta": self.eta},
            "output": {"format": "png", "grid": True},
        }


def draw(exchange: Exchange, request: SampleRequest, *, accept: str) -> httpx2.Response:
    """Return the answer that holds the finished sample.

    It is of the type `accept` if it came within `HOLD_SECONDS`, else the JSON object.

    Raises:
        JobFailed: the sampling ended failed or cancelled.
    """
    response = exchange.post(
        "/sample",
        body=request.body(),
        headers={"Accept": accept, "Prefer": f"wait={HOLD_SECONDS}"},
        timeout_seconds=HOLD_SECONDS + exchange.timeout_seconds,
    )
    if response.status_code != 202:
        return response
    location = response.headers.get("Location", "")
    if not location.startswith("/samples/"):
        raise UnexpectedAnswer(f"{response.url} answered 202 without a place to look.")
    while response.status_code == 202 or not _is_finished(response):
        exchange.sleep(retry_after(response, default=POLL_SECONDS))
        response = exchange.get(location, headers={"Accept": "application/json"})
    return response


def _is_finished(response: httpx2.Response) -> bool:
    sample = parsed(dict, response)
    status = str(sample.get("status"))
    if status in TERMINAL - {"succeeded"}:
        error = sample.get("error")
        raise JobFailed(
            str(sample.get("id")),
            status=status,
            failure=Failure.from_json(error) if error else None,
        )
    return status == "succeeded"

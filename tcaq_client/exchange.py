"""One request and its answer: problems become exceptions, reads are repeated."""

import ipaddress
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, Self, TypeVar

import httpx2

from tcaq_client.errors import ConnectionFailed, Problem, UnexpectedAnswer
from tcaq_client.results import JsonObject

T = TypeVar("T")

BACKOFF_SECONDS: Final = (0.25, 0.5, 1.0, 2.0)
"""Pauses between the attempts of a GET; one attempt more than there are pauses."""
RETRIED: Final = frozenset({429, 502, 503, 504})
"""Answers that a later attempt may improve."""
MAX_PAUSE_SECONDS: Final = 60.0
"""No Retry-After keeps us longer than this."""


class Exchange:
    """The HTTP side of a client, owning one connection pool.

    Raises:
        ValueError: `base_url` is not an http or https URL.
    """

    def __init__(
        self,
        base_url: str,
        *,
        transport: httpx2.BaseTransport | None,
        timeout_seconds: float,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        try:
            url = httpx2.URL(base_url)
        except httpx2.InvalidURL as error:
            raise ValueError(f"{base_url!r} is not a URL: {error}") from error
        if url.scheme not in {"http", "https"} or not url.host:
            raise ValueError(f"{base_url!r} is not an http:// or https:// URL.")
        self.base_url = str(url).rstrip("/")
        self.timeout_seconds = timeout_seconds
        self.sleep = sleep
        self._http = httpx2.Client(
            base_url=url,
            transport=transport,
            timeout=timeout_seconds,
            # A proxy of the environment knows nothing of this machine's own ports.
            trust_env=not _is_loopback(url.host),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(
        self,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        """Return the answer to a GET, after as many attempts as it takes.

        Raises:
            ConnectionFailed: every attempt broke off.
            Problem: the last answer was 4xx or 5xx.
        """
        for pause in BACKOFF_SECONDS:
            try:
                response = self._http.get(path, params=params, headers=headers)
            except httpx2.TransportError:
                self.sleep(pause)
                continue
            if response.status_code not in RETRIED:
                return checked(response)
            self.sleep(retry_after(response, default=pause))
        return checked(self._once("GET", path, params=params, headers=headers))

    def post(
        self,
        path: str,
        *,
        body: JsonObject | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float | None = None,
    ) -> httpx2.Response:
        """Return the answer to one POST; it is never repeated.

        Raises:
            ConnectionFailed: no answer; whether it took effect is not known.
            Problem: the answer was 4xx or 5xx.
        """
        return checked(
            self._once(
                "POST",
                path,
                json=body,
                headers=headers,
                timeout=timeout_seconds or self.timeout_seconds,
            )
        )

    @contextmanager
    def stream(
        self, path: str, *, headers: Mapping[str, str]
    ) -> Iterator[httpx2.Response]:
        """Yield the answer to one GET before its body is read.

        Raises:
            ConnectionFailed: no answer, or it broke off while being read.
            Problem: the answer was 4xx or 5xx, 416 included.
        """
        try:
            with self._http.stream("GET", path, headers=headers) as response:
                if response.is_error:
                    response.read()
                yield checked(response)
        except httpx2.TransportError as error:
            raise self._connection_failed(error) from error

    def _once(self, method: str, path: str, **request: Any) -> httpx2.Response:  # noqa: ANN401 - httpx2's own keywords, passed on
        try:
            return self._http.request(method, path, **request)
        except httpx2.TransportError as error:
            raise self._connection_failed(error) from error

    def _connection_failed(self, error: httpx2.TransportError) -> ConnectionFailed:
        reason = str(error) or type(error).__name__
        return ConnectionFailed(
            f"No answer from {self.base_url}: {reason}.",
            hint="Is the service running (tcaq up) and is this its URL?",
        )


def checked(response: httpx2.Response) -> httpx2.Response:
    """Return the answer unless it is an error.

    Raises:
        Problem: it is 4xx or 5xx.
        UnexpectedAnswer: it is a redirect: the service sends none.
    """
    if response.is_error:
        raise Problem.from_json(_document(response), status=response.status_code)
    if response.has_redirect_location:
        raise UnexpectedAnswer(
            f"{response.url} redirects to {response.headers['Location']}.",
            hint="Give the service's final URL.",
        )
    return response


def parsed(read: Callable[[JsonObject], T], response: httpx2.Response) -> T:
    """Return the answer's JSON object through `read`.

    Raises:
        UnexpectedAnswer: no JSON object, or members that `read` misses.
    """
    try:
        return read(dict(response.json()))
    except (LookupError, TypeError, ValueError) as error:
        raise UnexpectedAnswer(
            f"{response.url} did not answer as promised: {error!r}.",
            hint="Is this the service's URL, and its version that of this client?",
        ) from error


def retry_after(response: httpx2.Response, *, default: float) -> float:
    """Return the seconds that Retry-After asks for, at most `MAX_PAUSE_SECONDS`."""
    text = response.headers.get("Retry-After", "")
    try:
        seconds = (
            float(text)
            if text.isascii() and text.isdigit()
            else (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        )
    except (TypeError, ValueError):
        seconds = default
    return min(max(seconds, 0.0), MAX_PAUSE_SECONDS)


def _document(response: httpx2.Response) -> JsonObject:
    # Not every error is the service's own: proxies answer in HTML.
    try:
        document = json.loads(response.content)
    except ValueError:
        return {"title": response.reason_phrase}
    return document if isinstance(document, Mapping) else {}


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

"""Every way a call can fail, drawn as one tree.

ClientError
├── ConnectionFailed   no answer: refused, timed out, broken off too often
├── Problem            the service answered 4xx or 5xx
├── UnexpectedAnswer   an answer that the HTTP interface does not promise
├── JobFailed          the job that was waited for ended failed or cancelled
├── ChecksumMismatch   the bytes that arrived are not the ones announced
└── UnsafeArchive      a checkpoint that unpacking would let out of its folder

Bad arguments raise ValueError, an occupied destination FileExistsError, as usual.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tcaq_client.results import Failure


class ClientError(Exception):
    """Base of everything a call raises; `hint` says what can be done about it."""

    def __init__(self, detail: str, *, hint: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint


class ConnectionFailed(ClientError):
    """The service gave no answer."""


@dataclass(frozen=True)
class FieldError:
    """One part of the request that was refused, and what it may hold."""

    where: str
    """JSON pointer into the body, or the name of a query parameter or header."""
    code: str
    detail: str
    allowed: object = None

    @classmethod
    def from_json(cls, error: Mapping[str, Any]) -> "FieldError":
        """Read one item of a problem's `errors`."""
        return cls(
            where=str(error.get("pointer") or error.get("parameter") or ""),
            code=str(error.get("code") or ""),
            detail=str(error.get("detail") or ""),
            allowed=error.get("allowed"),
        )


class Problem(ClientError):
    """The problem document (RFC 9457) the service answered with."""

    def __init__(
        self,
        detail: str,
        *,
        status: int,
        code: str,
        title: str = "",
        hint: str = "",
        request_id: str = "",
        errors: tuple[FieldError, ...] = (),
    ) -> None:
        super().__init__(detail, hint=hint)
        self.status = status
        self.code = code
        self.title = title
        self.request_id = request_id
        self.errors = errors

    @classmethod
    def from_json(cls, document: Mapping[str, Any], *, status: int) -> "Problem":
        """Return the problem of a document; `status` is the response's own."""
        title = str(document.get("title") or f"HTTP {status}")
        return cls(
            str(document.get("detail") or title),
            status=status,
            code=str(document.get("code") or f"http_{status}"),
            title=title,
            hint=str(document.get("hint") or ""),
            request_id=str(document.get("request_id") or ""),
            errors=tuple(
                FieldError.from_json(item)
                for item in document.get("errors") or ()
                if isinstance(item, Mapping)
            ),
        )


class UnexpectedAnswer(ClientError):
    """Something answered, but not as the service's interface promises."""


class JobFailed(ClientError):
    """The job ended without a result: it failed (`failure` says why) or was cancelled.

    A sampling is a job too.
    """

    def __init__(self, job_id: str, *, status: str, failure: Failure | None) -> None:
        super().__init__(
            failure.detail if failure else f"{job_id} was {status}.",
            hint=failure.hint if failure else "",
        )
        self.job_id = job_id
        self.status = status
        self.failure = failure


class ChecksumMismatch(ClientError):
    """The SHA-256 of what arrived is not the one the service announced."""


class UnsafeArchive(ClientError):
    """The archive holds something else than plain files inside its own folder."""

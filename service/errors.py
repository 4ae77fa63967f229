"""What HTTP itself can refuse, before the ledger or the science is asked.

ServiceError                code
├── RequestInvalid          request_invalid
├── RecipeInvalid           recipe_invalid
├── BodyNotJson             body_not_json
├── BodyNotAnnounced        unsupported_media_type
├── NotAcceptable           not_acceptable
├── RangeUnsatisfiable      range_unsatisfiable
├── NotServing              not_serving
├── SampleFailed            that of the failed job
└── FieldRejected           that of its cause

Their statuses stand in problems.py, as those of every other error.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from jobs.errors import JobError
from jobs.models import Json
from service.schemas.problem import FieldError
from tcaq_core.errors import TCAQError


class ServiceError(Exception):
    """Base of every refusal that HTTP makes on its own."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        detail: str,
        *,
        hint: str | None = None,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint
        self.errors = tuple(errors)
        self.headers = dict(headers or {})


class RequestInvalid(ServiceError):
    """A body or a parameter breaks its schema."""

    code = "request_invalid"


class RecipeInvalid(ServiceError):
    """Bit widths, method or calibration break their schema."""

    code = "recipe_invalid"


class BodyNotJson(ServiceError):
    """The body cannot be parsed."""

    code = "body_not_json"


class BodyNotAnnounced(ServiceError):
    """The body's Content-Type does not say JSON."""

    code = "unsupported_media_type"


class NotAcceptable(ServiceError):
    """None of the media types asked for is on offer."""

    code = "not_acceptable"


class RangeUnsatisfiable(ServiceError):
    """The range asked for lies outside the content."""

    code = "range_unsatisfiable"


class NotServing(ServiceError):
    """Database, broker or artifact store does not answer."""

    code = "not_serving"
    retryable = True


class SampleFailed(ServiceError):
    """The sample that the request waited for ended without images."""

    def __init__(self, problem: Json, *, headers: Mapping[str, str]) -> None:
        super().__init__(problem["detail"], hint=problem["hint"], headers=headers)
        self.problem = problem


class FieldRejected(ServiceError):
    """A field names something that the science or the ledger refused."""

    def __init__(
        self,
        cause: TCAQError | JobError,
        *,
        pointer: str,
        allowed: Sequence[str] | None = None,
    ) -> None:
        error = FieldError(
            pointer=pointer,
            code=cause.code,
            detail=cause.detail,
            allowed=None if allowed is None else list(allowed),
        )
        super().__init__(cause.detail, hint=cause.hint, errors=(error,))
        self.cause = cause


def refused(
    pointer: str,
    detail: str,
    allowed: list[Any] | dict[str, int] | None = None,
    *,
    hint: str | None = None,
) -> RequestInvalid:
    """Return the refusal of one field's value."""
    error = FieldError(
        pointer=pointer, code="unsupported_value", detail=detail, allowed=allowed
    )
    return RequestInvalid(f"{pointer}: {detail}", hint=hint, errors=(error,))

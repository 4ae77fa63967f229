"""Every error that leaves this process, as problem+json (RFC 9457): the one table."""

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from types import MappingProxyType
from typing import Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from jobs import errors as ledger
from jobs.failures import TITLES as FAILURE_TITLES
from service import errors as http
from service.request_ids import HEADER, current_request_id
from service.schemas.problem import FieldError, Problem, ProblemKind
from service.validation import explain
from tcaq_core import errors as science

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_SECONDS: Final = 5

ErrorType = type[science.TCAQError | ledger.JobError | http.ServiceError]

STATUS: Final[Mapping[ErrorType, int]] = MappingProxyType(
    {
        science.ModelNotFound: 404,
        science.ModelUnsupported: 422,
        science.CheckpointUnsafe: 422,
        science.CheckpointShapeMismatch: 422,
        science.CalibrationFailed: 422,
        science.ReconstructionDiverged: 422,
        science.OutOfMemory: 503,
        science.ExportFailed: 500,
        science.Interrupted: 409,
        ledger.JobNotFound: 404,
        ledger.ArtifactNotFound: 404,
        ledger.ArtifactCorrupt: 500,
        ledger.JobNotReady: 409,
        ledger.IllegalTransition: 409,
        ledger.LeaseLost: 409,
        ledger.QueueUnavailable: 503,
        http.RequestInvalid: 422,
        http.RecipeInvalid: 422,
        http.BodyNotJson: 400,
        http.BodyNotAnnounced: 415,
        http.NotAcceptable: 406,
        http.RangeUnsatisfiable: 416,
        http.NotServing: 503,
    }
)
"""Leaves only. `FieldRejected` and `SampleFailed` answer with another's status."""

# What the framework raises on its own, and what only the worker's side can say.
STATUS_BY_CODE: Final[Mapping[str, int]] = MappingProxyType(
    {error.code: status for error, status in STATUS.items()}
    | {
        "bad_request": 400,
        "not_found": 404,
        "method_not_allowed": 405,
        "body_too_large": 413,
        "worker_lost": 503,
        "internal": 500,
    }
)

_TITLES: Final[Mapping[str, str]] = MappingProxyType(
    dict(FAILURE_TITLES)
    | {
        "illegal_transition": "The job's state does not allow this",
        "lease_lost": "The job belongs to another worker",
        "queue_unavailable": "The message broker does not answer",
        "request_invalid": "The request is not valid",
        "recipe_invalid": "The recipe is not valid",
        "body_not_json": "The body is not JSON",
        "unsupported_media_type": "The body must be announced as JSON",
        "not_acceptable": "That media type is not on offer",
        "range_unsatisfiable": "The range lies outside the content",
        "not_serving": "The service is not ready",
        "bad_request": "The request cannot be understood",
        "not_found": "There is nothing here",
        "method_not_allowed": "This method is not allowed here",
        "body_too_large": "The body is too large",
    }
)
_FRAMEWORK_CODES: Final[Mapping[int, str]] = MappingProxyType(
    {
        400: "bad_request",
        404: "not_found",
        405: "method_not_allowed",
        413: "body_too_large",
    }
)

_logger = logging.getLogger(__name__)


def install(app: FastAPI) -> None:
    """Make the application answer every error as a problem."""
    app.add_exception_handler(science.TCAQError, _domain_problem)
    app.add_exception_handler(ledger.JobError, _domain_problem)
    app.add_exception_handler(http.ServiceError, _domain_problem)
    app.add_exception_handler(RequestValidationError, _validation_problem)
    app.add_exception_handler(HTTPException, framework_problem)
    app.add_exception_handler(OperationalError, _database_problem)
    app.add_exception_handler(Exception, _unexpected_problem)


def kinds() -> tuple[ProblemKind, ...]:
    """Return every kind of problem there is, by code."""
    meanings = {error.code: (error.__doc__ or "").strip() for error in STATUS}
    return tuple(
        ProblemKind(
            type=type_uri(code),
            title=_TITLES[code],
            status=status,
            code=code,
            meaning=meanings.get(code, f"{_TITLES[code]}."),
        )
        for code, status in sorted(STATUS_BY_CODE.items())
    )


def type_uri(code: str) -> str:
    """Return the address that documents a kind of problem."""
    return f"/problems/{code.replace('_', '-')}"


def describe(
    code: str,
    *,
    detail: str,
    instance: str,
    hint: str | None = None,
    retryable: bool | None = None,
    errors: Sequence[FieldError] = (),
) -> Problem:
    """Return the document of a problem whose code is in the table."""
    return Problem(
        type=type_uri(code),
        title=_TITLES[code],
        status=STATUS_BY_CODE[code],
        detail=detail,
        instance=instance,
        code=code,
        request_id=current_request_id(),
        hint=hint,
        retryable=retryable,
        errors=list(errors) or None,
    )


def framework_problem(request: Request, error: Exception) -> Response:
    """Answer an error of the framework: no such route or method, too large a body."""
    assert isinstance(error, HTTPException)  # noqa: S101 - it is installed for these only
    code = _FRAMEWORK_CODES.get(error.status_code, "internal")
    phrase = HTTPStatus(error.status_code).phrase
    method, path = request.method, request.url.path
    detail = f"{method} {path}: {phrase}." if error.detail == phrase else error.detail
    return _answer(request, describe(code, detail=detail, instance=path), error.headers)


def _domain_problem(request: Request, error: Exception) -> Response:
    if isinstance(error, http.SampleFailed):
        return _failed_job_problem(request, error)
    cause = error.cause if isinstance(error, http.FieldRejected) else error
    assert isinstance(  # noqa: S101 - it is installed for these only
        cause, science.TCAQError | ledger.JobError | http.ServiceError
    )
    ours = error if isinstance(error, http.ServiceError) else None
    problem = describe(
        cause.code,
        detail=cause.detail,
        instance=request.url.path,
        hint=cause.hint,
        retryable=cause.retryable,
        errors=ours.errors if ours else (),
    )
    return _answer(request, problem, ours.headers if ours else None)


def _failed_job_problem(request: Request, error: http.SampleFailed) -> Response:
    problem = describe(
        error.problem["code"],
        detail=error.detail,
        instance=request.url.path,
        hint=error.hint,
        retryable=error.problem["retryable"],
    )
    return _answer(request, problem, error.headers)


def _validation_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - installed for it
    return _domain_problem(request, explain(request.scope.get("route"), error))


def _database_problem(request: Request, error: Exception) -> Response:
    # Only the type: the message quotes the statement and may quote the URL.
    _logger.error("%s: %s", current_request_id(), type(error).__name__)
    unreachable = http.NotServing(
        "The database does not answer.", hint="Repeat the request in a moment."
    )
    return _domain_problem(request, unreachable)


def _unexpected_problem(request: Request, error: Exception) -> Response:
    # The server logs the traceback itself; this line joins it to the request.
    _logger.error("request %s failed: %s", current_request_id(), type(error).__name__)
    problem = describe(
        "internal",
        detail="The service failed to answer; its log has the reason.",
        instance=request.url.path,
        hint="Report the request_id to whoever runs the service.",
    )
    return _answer(request, problem, {HEADER: current_request_id()})


def _answer(
    request: Request, problem: Problem, headers: Mapping[str, str] | None
) -> Response:
    extra = dict(headers or {})
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        extra.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))
    # ASCII only: a client's own keys are echoed, and may hold lone surrogates.
    document = json.dumps(problem.model_dump(exclude_none=True))
    body = b"" if request.method == "HEAD" else document.encode("ascii")
    response = Response(body, problem.status, extra, MEDIA_TYPE)
    response.headers["Content-Length"] = str(len(document))
    return response

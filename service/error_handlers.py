"""How every error that leaves this process becomes problem+json."""

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from jobs import errors as ledger
from service import errors as http
from service.problems import MEDIA_TYPE, describe
from service.request_ids import HEADER, current_request_id
from service.schemas.problem import Problem
from service.validation import explain
from tcaq_core import errors as science

RETRY_AFTER_SECONDS: Final = 5
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
    for unreachable in (OperationalError, InterfaceError, PoolTimeout):
        app.add_exception_handler(unreachable, _database_problem)
    app.add_exception_handler(Exception, _unexpected_problem)


def framework_problem(request: Request, error: Exception) -> Response:
    """Answer an error of the framework: no such route or method, too large a body."""
    assert isinstance(error, HTTPException)  # noqa: S101 - it is installed for these only
    code = _FRAMEWORK_CODES.get(error.status_code, "internal")
    phrase = HTTPStatus(error.status_code).phrase
    method, path = request.method, request.url.path
    detail = f"{method} {path}: {phrase}." if error.detail == phrase else error.detail
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed_methods(request))
    return _answer(request, describe(code, detail=detail, instance=path), headers)


def _allowed_methods(request: Request) -> list[str]:
    # The framework names those of the first route with this path, not of all.
    return sorted(
        method
        for route in iter_route_contexts(request.app.routes)
        if route.matches(request.scope)[0] != Match.NONE
        for method in route.methods or ()
    )


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

"""The one table: exception type to status, code and title (RFC 9457)."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from jobs import errors as ledger
from jobs.failures import TITLES as FAILURE_TITLES
from service import errors as http
from service.request_ids import current_request_id
from service.schemas.problem import FieldError, Problem, ProblemKind
from tcaq_core import errors as science

MEDIA_TYPE: Final = "application/problem+json"

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
        science.ExecutionUnavailable: 422,
        science.EvaluationFailed: 422,
        science.ExtractorUnavailable: 422,
        science.ReferenceUnusable: 422,
        science.ImagesUnusable: 422,
        science.GuardViolated: 422,
        science.ResumeRefused: 500,
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

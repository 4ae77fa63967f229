"""Problem documents (RFC 9457)."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


class FieldError(BaseModel):
    """One thing wrong in the request: where, and what is allowed there."""

    model_config = ConfigDict(frozen=True)

    pointer: str | None = None
    """JSON pointer (RFC 6901) into the body; "" is the whole body."""
    parameter: str | None = None
    """Name of the query parameter, header or path part, where it is not the body."""
    code: str
    detail: str
    allowed: list[Any] | dict[str, Any] | None = None
    """The allowed values or known keys, or bounds as JSON Schema keywords."""


class Problem(BaseModel):
    """The body of every 4xx and 5xx answer; members that say nothing are left out."""

    model_config = ConfigDict(frozen=True)

    type: Annotated[str, Field(examples=["/problems/job-not-found"])]
    """Names the kind of problem, and documents it when fetched."""
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str
    instance: str
    """Path of the request."""
    code: str
    request_id: str
    hint: str | None = None
    """What the caller can do about it."""
    retryable: bool | None = None
    """Whether the same request can succeed later without being changed."""
    errors: list[FieldError] | None = None


class ProblemKind(BaseModel):
    """What a problem's `type` stands for."""

    model_config = ConfigDict(frozen=True)

    type: str
    title: str
    status: int
    code: str
    meaning: str

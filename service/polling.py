"""What a caller who polls is told: ETag, 304, and when to come again."""

from typing import Final

from fastapi import Request, Response
from sqlalchemy.orm import Session

from jobs import repository
from jobs.models import Job
from jobs.status import JobStatus, is_terminal
from service.byte_ranges import matches
from service.job_view import etag

RETRY_AFTER_SECONDS: Final = 2
"""How soon a job that has not ended is worth another look."""


def place_in_queue(session: Session, job: Job) -> int | None:
    """Return how many jobs are before this one; None when it is not queued."""
    queued = job.status == JobStatus.QUEUED
    return repository.ahead(session, job) if queued else None


def unchanged(
    request: Request, response: Response, job: Job, *, ahead: int | None
) -> Response | None:
    """Set the headers of a look at a job; return the 304 if it has not changed."""
    headers = {"ETag": etag(job, ahead=ahead), "Cache-Control": "private, no-cache"}
    if not is_terminal(job.status):
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if matches(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return None

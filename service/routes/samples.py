"""Draw images."""

from functools import partial
from http import HTTPStatus

import anyio.to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from jobs import repository
from jobs.ids import public_id
from jobs.models import Job, JobKind
from jobs.status import JobStatus, is_terminal
from service.content import new_artifact_response
from service.deps import NowDep, Resources, ResourcesDep, SessionDep
from service.errors import RequestInvalid, SampleFailed
from service.job_view import sample_object
from service.negotiation import Preferences, choose, parse_prefer
from service.openapi import BINARY, NOT_MODIFIED, problem_responses
from service.polling import RETRY_AFTER_SECONDS, place_in_queue, unchanged
from service.routes.jobs import find_job
from service.sampling import failure_of, submit_sample, wait_until_ended
from service.schemas.problem import FieldError
from service.schemas.sample import SampleCreate, SampleRead

JSON = "application/json"
PNG = "image/png"

router = APIRouter(tags=["samples"])


@router.post(
    "/sample",
    response_model=SampleRead,
    responses={
        200: {"description": "The images", "content": {PNG: BINARY}},
        202: {
            "description": "Not done in the time that was waited",
            "model": SampleRead,
            "headers": {"Location": {"schema": {"type": "string"}}},
        },
        **problem_responses(
            "body_not_json",
            "job_not_found",
            "artifact_not_found",
            "model_not_found",
            "not_acceptable",
            "job_not_ready",
            "cancelled",
            "body_too_large",
            "unsupported_media_type",
            "request_invalid",
            "model_unsupported",
            "checkpoint_unsafe",
            "checkpoint_shape_mismatch",
            "execution_unavailable",
            "out_of_memory",
            "worker_lost",
            instance="/sample",
        ),
    },
)
async def draw_sample(
    body: SampleCreate, request: Request, resources: ResourcesDep, now: NowDep
) -> Response:
    """Draw images and wait for them: the grid as PNG, or JSON with links, by Accept.

    `Prefer: wait=N` shortens the wait, `Prefer: respond-async` does without.
    """
    media_type = choose(request.headers.getlist("accept"), (JSON, PNG))
    if media_type == PNG and not body.output.grid:
        raise _needs_grid()
    prefer = parse_prefer(request.headers.getlist("prefer"))
    job = await anyio.to_thread.run_sync(
        partial(submit_sample, resources, body, now=now)
    )
    longest = resources.settings.sample_wait_seconds
    job = await wait_until_ended(
        resources.sessions,
        job.id,
        seconds=prefer.patience(longest=longest),
        has_left=request.is_disconnected,
    )
    if not is_terminal(job.status):
        return _not_yet(job, prefer)
    return await anyio.to_thread.run_sync(
        partial(_finished, job, resources, media_type=media_type)
    )


@router.get(
    "/samples/{sample_id}",
    response_model=SampleRead,
    responses={
        200: {"headers": {"ETag": {"schema": {"type": "string"}}}},
        304: NOT_MODIFIED,
        **problem_responses("job_not_found", instance="/samples/sample_…"),
    },
)
def read_sample(
    sample_id: str, request: Request, response: Response, session: SessionDep
) -> SampleRead | Response:
    """Return a sample as it is now, with links to its images."""
    job = find_job(session, sample_id, kinds=[JobKind.SAMPLE])
    ahead = place_in_queue(session, job)
    known = unchanged(request, response, job, ahead=ahead)
    return known or sample_object(job, ahead=ahead)


def _not_yet(job: Job, prefer: Preferences) -> Response:
    headers = {
        "Location": f"/samples/{public_id(job.kind, job.id)}",
        "Retry-After": str(RETRY_AFTER_SECONDS),
    }
    applied = prefer.applied()
    if applied is not None:
        headers["Preference-Applied"] = applied
    body = sample_object(job).model_dump(mode="json")
    return JSONResponse(body, HTTPStatus.ACCEPTED, headers)


def _finished(job: Job, resources: Resources, *, media_type: str) -> Response:
    sample_id = public_id(job.kind, job.id)
    headers = {"Tcaq-Sample-Id": sample_id, "Cache-Control": "no-store"}
    if job.status != JobStatus.SUCCEEDED:
        raise SampleFailed(failure_of(job), headers=headers)
    sample = sample_object(job)
    headers["Tcaq-Execution"] = str(sample.execution)
    if sample.execution_details is not None:
        headers["Tcaq-Kernels"] = sample.execution_details.kernels
    headers["Content-Location"] = sample.urls.self
    if media_type == JSON or sample.grid is None:
        return JSONResponse(sample.model_dump(mode="json"), headers=headers)
    headers["Content-Location"] = sample.grid.url
    with resources.sessions.begin() as session:
        grid = repository.artifact(session, sample.grid.sha256)
    return new_artifact_response(
        resources.store, grid, filename=sample_id, extra=headers
    )


def _needs_grid() -> RequestInvalid:
    error = FieldError(
        pointer="/output/grid",
        code="unsupported_value",
        detail="Accept: image/png answers with the grid.",
        allowed=[True],
    )
    return RequestInvalid(f"/output/grid: {error.detail}", errors=(error,))

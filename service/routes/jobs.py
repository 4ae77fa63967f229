"""Submit, look at, list and cancel jobs of every kind but samples."""

from collections.abc import Collection
from typing import Annotated, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from jobs import repository
from jobs.errors import ArtifactNotFound, JobNotFound
from jobs.ids import parse_id, public_id
from jobs.models import Job, JobKind
from jobs.queue import ring
from jobs.status import is_terminal
from service import cursors
from service.deps import CeleryDep, NowDep, SessionDep, SettingsDep, StoreDep
from service.job_result import has_evaluation, scores_of
from service.job_view import job_object
from service.openapi import NOT_MODIFIED, problem_responses
from service.polling import RETRY_AFTER_SECONDS, place_in_queue, unchanged
from service.schemas.evaluation import ScoreList
from service.schemas.job import JobPage, JobRead
from service.schemas.submission import JobCreate, JobsQuery
from service.submission import accept
from service.targets import require_success

KINDS: Final = (JobKind.QUANTIZE, JobKind.EVALUATE, JobKind.SWEEP)
"""Every kind that is called a job; a sample is not."""

router = APIRouter(tags=["jobs"])


@router.post(
    "/jobs",
    status_code=202,
    responses={
        202: {
            "headers": {
                "Location": {"schema": {"type": "string"}},
                "Retry-After": {"schema": {"type": "integer"}},
            }
        },
        **problem_responses(
            "body_not_json",
            "model_not_found",
            "body_too_large",
            "unsupported_media_type",
            "recipe_invalid",
            "request_invalid",
            "model_unsupported",
            "checkpoint_unsafe",
            "checkpoint_shape_mismatch",
            "job_not_found",
            "job_not_ready",
            "artifact_not_found",
            "evaluation_failed",
            "extractor_unavailable",
            "reference_unusable",
        ),
    },
)
def submit_job(
    *,
    body: JobCreate,
    response: Response,
    session: SessionDep,
    store: StoreDep,
    settings: SettingsDep,
    celery: CeleryDep,
    now: NowDep,
) -> JobRead:
    """Queue a quantization, an evaluation or a sweep, as `kind` says.

    What can be known to be wrong is refused at once.
    """
    accepted = accept(body, session=session, settings=settings, store=store)
    job = repository.submit(
        session,
        kind=accepted.kind,
        request=accepted.request,
        model=accepted.model,
        recipe=accepted.recipe,
        max_attempts=settings.max_attempts,
        now=now,
    )
    ring(session, job, celery)
    response.headers["Location"] = f"/jobs/{public_id(job.kind, job.id)}"
    response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return job_object(job, ahead=repository.ahead(session, job))


@router.get(
    "/jobs",
    responses={
        200: {"headers": {"Link": {"schema": {"type": "string"}}}},
        **problem_responses("request_invalid"),
    },
)
def list_jobs(
    query: Annotated[JobsQuery, Query()], response: Response, session: SessionDep
) -> JobPage:
    """List quantizations, evaluations and sweeps, page by page.

    A sweep's points are listed without their `scores`: the job itself has them.
    """
    listing = f"{query.kind or 'any'}:{query.status or 'any'}:{query.order}"
    after = cursors.decode(query.after, listing=listing) if query.after else None
    page = repository.page(
        session,
        kinds=KINDS if query.kind is None else [JobKind(query.kind)],
        status=query.status,
        limit=query.limit,
        after=after,
        newest_first=query.order == "desc",
    )
    following = None
    if page.has_more:
        last = page.jobs[-1]
        following = cursors.encode((last.created_at, last.id), listing=listing)
        parameters = query.model_dump(exclude_none=True) | {"after": following}
        response.headers["Link"] = f'</jobs?{urlencode(parameters)}>; rel="next"'
    ids = [public_id(job.kind, job.id) for job in page.jobs]
    return JobPage(
        data=[job_object(job, is_listed=True) for job in page.jobs],
        has_more=page.has_more,
        first_id=ids[0] if ids else None,
        last_id=ids[-1] if ids else None,
        next=following,
    )


@router.get(
    "/jobs/{job_id}",
    response_model=JobRead,
    responses={
        200: {"headers": {"ETag": {"schema": {"type": "string"}}}},
        304: NOT_MODIFIED,
        **problem_responses("job_not_found"),
    },
)
def read_job(
    job_id: str, request: Request, response: Response, session: SessionDep
) -> JobRead | Response:
    """Return a job as it is now; cheap to ask again with If-None-Match."""
    job = find_job(session, job_id)
    ahead = place_in_queue(session, job)
    known = unchanged(request, response, job, ahead=ahead)
    return known or job_object(job, ahead=ahead)


@router.post(
    "/jobs/{job_id}/cancel",
    status_code=202,
    responses=problem_responses("job_not_found", "illegal_transition"),
)
def cancel_job(
    job_id: str, response: Response, session: SessionDep, now: NowDep
) -> JobRead:
    """Cancel a queued job at once; ask the worker of a running one to stop.

    Safe to repeat while the job is cancelling.
    """
    found = find_job(session, job_id)
    job = repository.request_cancel(session, found.id, now=now)
    if not is_terminal(job.status):
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return job_object(job)


@router.get(
    "/jobs/{job_id}/scores",
    response_model=ScoreList,
    responses=problem_responses("job_not_found", "artifact_not_found", "job_not_ready"),
)
def read_scores(job_id: str, session: SessionDep) -> Response:
    """Return a job's scores, each with everything that decides its value."""
    job = find_job(session, job_id)
    if not has_evaluation(job):
        raise ArtifactNotFound(
            f"{job_id} has no evaluation.",
            hint='Submit one that has: "evaluation": {"protocol": "quick"}; a '
            "sweep's scores stand at its points.",
        )
    require_success(job)
    # As the worker wrote them: a later version may describe a score otherwise.
    return JSONResponse({"object": "list", "data": scores_of(job.result or {})})


def find_job(session: Session, text: str, *, kinds: Collection[JobKind] = KINDS) -> Job:
    """Return the job of a public id.

    Raises:
        JobNotFound: no such job of those kinds.
    """
    job = repository.get(session, parse_id(text))
    if job.kind not in kinds or public_id(job.kind, job.id) != text:
        raise JobNotFound(
            f"There is no {' or '.join(kinds)} job of that id.",
            hint="GET /jobs lists the jobs; samples are under /samples.",
        )
    return job

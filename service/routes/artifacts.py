"""Download checkpoints, reports and images."""

from typing import Any, Final

from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session

from jobs import repository
from jobs.errors import ArtifactNotFound
from jobs.models import Artifact, JobKind
from service.content import artifact_response
from service.deps import SessionDep, StoreDep
from service.job_result import artifact_url
from service.openapi import BINARY, NOT_MODIFIED, Responses, problem_responses
from service.routes.jobs import find_job
from service.targets import require_success

router = APIRouter(tags=["artifacts"])

_TEXT: Final[dict[str, Any]] = {"schema": {"type": "string"}}
_HEADERS: Final = {
    "ETag": _TEXT,
    "Repr-Digest": _TEXT,
    "Accept-Ranges": _TEXT,
    "Content-Disposition": _TEXT,
}


def _content(*media_types: str) -> Responses:
    content = dict.fromkeys(media_types, BINARY)
    return {
        200: {
            "description": "All bytes",
            "headers": _HEADERS,
            "content": content,
        },
        206: {
            "description": "The bytes that Range asks for",
            "headers": {**_HEADERS, "Content-Range": _TEXT},
            "content": content,
        },
        304: NOT_MODIFIED,
    }


@router.head("/jobs/{job_id}/checkpoint", include_in_schema=False)
@router.get(
    "/jobs/{job_id}/checkpoint",
    response_class=Response,
    responses={
        **_content("application/x-tar"),
        **problem_responses(
            "job_not_found",
            "artifact_not_found",
            "job_not_ready",
            "range_unsatisfiable",
        ),
    },
)
def download_checkpoint(
    job_id: str, request: Request, session: SessionDep, store: StoreDep
) -> Response:
    """Download a job's quantized checkpoint, one tar file."""
    found = _made_by(session, job_id, "checkpoint")
    location = {"Content-Location": artifact_url(found.sha256)}
    return artifact_response(request, store, found, filename=job_id, extra=location)


@router.head("/jobs/{job_id}/report", include_in_schema=False)
@router.get(
    "/jobs/{job_id}/report",
    response_class=Response,
    responses={
        **_content("application/json"),
        **problem_responses(
            "job_not_found",
            "artifact_not_found",
            "job_not_ready",
            "range_unsatisfiable",
        ),
    },
)
def read_report(
    job_id: str, request: Request, session: SessionDep, store: StoreDep
) -> Response:
    """Return what each pass of a quantization did, layer by layer and step by step."""
    found = _made_by(session, job_id, "report")
    location = {"Content-Location": artifact_url(found.sha256)}
    return artifact_response(
        request, store, found, filename=f"{job_id}-report", extra=location
    )


@router.head("/jobs/{job_id}/onnx", include_in_schema=False)
@router.get(
    "/jobs/{job_id}/onnx",
    response_class=Response,
    responses={
        **_content("application/octet-stream"),
        **problem_responses(
            "job_not_found",
            "artifact_not_found",
            "job_not_ready",
            "range_unsatisfiable",
        ),
    },
)
def download_onnx(
    job_id: str, request: Request, session: SessionDep, store: StoreDep
) -> Response:
    """Download a job's quantized denoiser in ONNX, if its `exports` named that."""
    found = _made_by(session, job_id, "model.onnx")
    location = {"Content-Location": artifact_url(found.sha256)}
    return artifact_response(
        request, store, found, filename=f"{job_id}.onnx", extra=location
    )


@router.head("/artifacts/{sha256}/content", include_in_schema=False)
@router.get(
    "/artifacts/{sha256}/content",
    response_class=Response,
    responses={
        **_content(
            "application/x-tar",
            "image/png",
            "application/json",
            "application/octet-stream",
        ),
        **problem_responses("artifact_not_found", "range_unsatisfiable"),
    },
)
def download_artifact(
    sha256: str, request: Request, session: SessionDep, store: StoreDep
) -> Response:
    """Download any file by the SHA-256 of its bytes."""
    return artifact_response(request, store, repository.artifact(session, sha256))


def _made_by(session: Session, job_id: str, name: str) -> Artifact:
    job = find_job(session, job_id)
    if job.kind != JobKind.QUANTIZE:
        raise ArtifactNotFound(
            f"{job_id} is of the kind {job.kind.value}: it makes no {name}.",
            hint="Its `urls` and its `result` name what it makes.",
        )
    require_success(job)
    made = repository.job_artifacts(session, job.id)
    if name not in made:
        raise ArtifactNotFound(
            f"{job_id} has made no {name}.",
            hint='Submit a job that names it: "exports": ["onnx"].',
        )
    return made[name]

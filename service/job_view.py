"""From a row of the ledger to the objects on the wire: functions of the row alone.

Nothing here looks at the clock. An object changes only when the row's version does,
which is what makes that version an honest ETag.
"""

from datetime import datetime
from typing import Any

from jobs.ids import public_id
from jobs.models import Job, JobKind, Json
from jobs.status import JobStatus, is_terminal
from service import eta
from service.job_result import artifact_url, metrics_of, urls_of, without_records
from service.schemas.job import (
    Attempt,
    Failure,
    JobRead,
    ModelUsed,
    Progress,
    Queue,
    Stage,
    Step,
    Usage,
)
from service.schemas.sample import Image, SampleRead, SampleUrls


def job_object(
    job: Job, *, ahead: int | None = None, is_listed: bool = False
) -> JobRead:
    """Return the job object; `ahead` is the number of queued jobs before it.

    One that is listed comes without what would make a page of them large.
    """
    # Until then it is what another attempt would go on from.
    result = job.result if job.status == JobStatus.SUCCEEDED else None
    if result is not None and is_listed:
        result = without_records(result)
    written = [] if job.kind == JobKind.EVALUATE else ["safetensors"]
    return JobRead(
        **_tracked(job, ahead),
        model=_model(job),
        recipe=job.recipe,
        recipe_digest=job.recipe_digest,
        exports=job.request.get("exports", written),
        evaluation=job.request.get("plan"),
        guards=job.request.get("guards"),
        labels=job.labels,
        metrics=metrics_of(result or {}),
        result=result,
        urls=urls_of(job),
    )


def sample_object(job: Job, *, ahead: int | None = None) -> SampleRead:
    """Return the sample object of a row of that kind."""
    result = job.result or {}
    images, baseline = result.get("images"), result.get("baseline")
    grid = result.get("grid")
    return SampleRead(
        **_tracked(job, ahead),
        request=job.request,
        images=None if images is None else [_image(item) for item in images],
        grid=None if grid is None else _image(grid),
        baseline=None if baseline is None else [_image(item) for item in baseline],
        execution=result.get("execution"),
        execution_details=result.get("execution_details"),
        metrics=result.get("metrics"),
        seconds_per_image=result.get("seconds_per_image"),
        urls=SampleUrls(self=f"/samples/{public_id(job.kind, job.id)}"),
    )


def etag(job: Job, *, ahead: int | None) -> str:
    """Return a strong ETag: the row's version, and the place in the queue if any."""
    place = "" if ahead is None else f"-{ahead}"
    return f'"{job.version}{place}"'


def _tracked(job: Job, ahead: int | None) -> dict[str, Any]:
    queue = Queue() if ahead is None else Queue(position=ahead + 1, ahead=ahead)
    return {
        "id": public_id(job.kind, job.id),
        "kind": job.kind.value,
        "status": job.status,
        "stage": _stage(job),
        "progress": _progress(job),
        "queue": queue,
        "attempt": Attempt(
            number=job.attempt,
            max=job.max_attempts,
            resumed_from=job.resumed_from,
            last_heartbeat_at=job.heartbeat_at,
        ),
        "created_at": job.created_at,
        "started_at": job.started_at,
        "updated_at": job.updated_at,
        "finished_at": job.finished_at,
        "cancel_requested_at": job.cancel_requested_at,
        "environment": job.environment,
        "steps": [Step.model_validate(step) for step in job.steps],
        "usage": _usage(job),
        "error": Failure.model_validate(job.error) if job.error else None,
        "warnings": job.warnings,
    }


def _stage(job: Job) -> Stage | None:
    if job.stage is None:
        return None
    return Stage(name=job.stage, index=job.stage_index, count=job.stage_count)


def _progress(job: Job) -> Progress:
    steps = [Step.model_validate(step) for step in job.steps]
    left = rate = None
    if job.status == JobStatus.RUNNING and steps:
        # A second attempt begins again, and so do its steps: not `started_at`.
        left = eta.estimate(
            fraction=job.fraction,
            started_at=steps[0].started_at,
            seen_at=job.updated_at,
            resumed=job.resumed_fraction,
        )
        # Of a stage that was resumed, nobody knows what was done in this attempt.
        if not (job.resumed_from or "").startswith(f"{job.stage}/"):
            rate = _rate(job.done, steps[-1].started_at, job.updated_at)
    return Progress(
        percent=round(100 * job.fraction, 1),
        unit=job.unit,
        done=job.done,
        total=job.total,
        rate_per_s=rate,
        eta_s=left.seconds if left else None,
        eta_low_s=left.low if left else None,
        eta_high_s=left.high if left else None,
    )


def _rate(done: int, since: datetime, until: datetime) -> float | None:
    seconds = (until - since).total_seconds()
    return round(done / seconds, 3) if done and seconds > 0 else None


def _usage(job: Job) -> Usage:
    if job.started_at is None:
        return Usage(worker_seconds=None, gpu_seconds=None)
    until = job.finished_at if is_terminal(job.status) else job.updated_at
    seconds = (until or job.updated_at) - job.started_at
    worker_seconds = round(seconds.total_seconds(), 3)
    if job.environment is None:
        return Usage(worker_seconds=worker_seconds, gpu_seconds=None)
    has_gpu = bool(job.environment.get("gpu"))
    return Usage(
        worker_seconds=worker_seconds, gpu_seconds=worker_seconds if has_gpu else 0.0
    )


def _model(job: Job) -> ModelUsed:
    known = job.model_info or {}
    repo, _, revision = job.model.partition("@")
    return ModelUsed(
        reference=job.model,
        repo=repo,
        revision=known.get("revision") or revision or None,
        weights_sha256=known.get("weights_sha256"),
        num_parameters=known.get("num_parameters"),
    )


def _image(image: Json) -> Image:
    return Image.model_validate({"url": artifact_url(image["sha256"]), **image})

"""What a job made, from its row's result: its numbers, and where its files are."""

from jobs.ids import public_id
from jobs.models import Job, JobKind, Json
from jobs.status import JobStatus
from service.schemas.job import JobUrls


def metrics_of(result: Json) -> dict[str, float]:
    """Return the numbers that were measured, by name.

    A score comes with its ``_baseline`` and ``_delta`` where there is a baseline.
    """
    speedup = (result.get("benchmark") or {}).get("speedup", {})
    found = {
        "compression_ratio": result.get("compression_ratio"),
        "max_abs_diff": result.get("verified", {}).get("max_abs_diff"),
        **{f"speedup_{name}": value for name, value in speedup.items()},
    }
    for score in scores_of(result):
        name, baseline = score["metric"], score["baseline"] or {}
        found[name] = score["value"]
        found[f"{name}_baseline"] = baseline.get("value")
        found[f"{name}_delta"] = baseline.get("delta")
    return {name: float(value) for name, value in found.items() if value is not None}


def scores_of(result: Json) -> list[Json]:
    """Return the records of an evaluation, as the worker wrote them."""
    scores: list[Json] = (result.get("evaluation") or {}).get("scores", [])
    return scores


def without_records(result: Json) -> Json:
    """Return a result as a listing shows it: a sweep's points without their scores.

    Each point's records are some 10 kB, and a listing may show a hundred sweeps of 64
    points; the job itself has them.
    """
    if "points" not in result:
        return result
    shown = [
        {key: value for key, value in point.items() if key != "scores"}
        for point in result["points"]
    ]
    return result | {"points": shown}


def has_evaluation(job: Job) -> bool:
    """Return whether a job's own result will have scores; a sweep's points do."""
    return job.kind != JobKind.SWEEP and job.request.get("plan") is not None


def urls_of(job: Job) -> JobUrls:
    """Return where a job and what it has made are."""
    self = f"/jobs/{public_id(job.kind, job.id)}"
    succeeded = job.status == JobStatus.SUCCEEDED
    result = (job.result or {}) if succeeded else {}
    has_checkpoint = succeeded and job.kind == JobKind.QUANTIZE
    return JobUrls(
        self=self,
        cancel=f"{self}/cancel",
        checkpoint=f"{self}/checkpoint" if has_checkpoint else None,
        report=f"{self}/report" if has_checkpoint else None,
        report_picture=_content(result.get("report", {}).get("picture")),
        onnx=f"{self}/onnx" if "onnx" in result.get("exports", {}) else None,
        scores=f"{self}/scores" if succeeded and has_evaluation(job) else None,
        pareto=_content(result.get("pareto")),
        pareto_picture=_content(result.get("picture")),
    )


def artifact_url(sha256: str) -> str:
    """Return where an artifact's bytes are."""
    return f"/artifacts/{sha256}/content"


def _content(stored: Json | None) -> str | None:
    return artifact_url(stored["sha256"]) if stored else None

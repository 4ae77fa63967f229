"""The work of a sweep: every setting with every recipe, and one table of them."""

import json
from collections.abc import Sequence
from typing import Any

from jobs import repository
from jobs.artifacts import StoredArtifact
from jobs.models import Job
from jobs.repository import lease_of
from jobs.stages import PERMILLE_ALL, Stage, progress_of
from tcaq_core import diffusion, quantization
from tcaq_core.calibration import CalibrationSet
from tcaq_core.evaluation.plan import EvaluationPlan
from tcaq_core.journal import NoJournal
from worker.clock import utc_now
from worker.context import Context
from worker.description import describe
from worker.guarded import Attempt
from worker.journals import AttemptJournal
from worker.memory import return_memory
from worker.models import fetch_model
from worker.outcome import Progress, Succeeded
from worker.pareto_plot import plot
from worker.scorable import require_scorable_model
from worker.sweep_points import (
    Row,
    SweepRequest,
    Wanted,
    artifacts_of,
    point_stages,
    row_of,
    table_of,
)


def sweep(
    job: Job, context: Context, progress: Progress, journal: AttemptJournal
) -> Succeeded:
    """Quantize and score every point; return the table and its picture.

    Calibration is recorded once; the baseline's shards are made once. What is finished
    stands on the row: another attempt, on any machine, goes on from there.

    Raises:
        TCAQError, JobError: as `quantize_once` and `evaluate_subjects`.
    """
    request = SweepRequest.model_validate(job.request)
    points = list(request.points())
    rows = _finished(job, points)
    progress("fetch", 0, 1)
    require_scorable_model(job.model, request.plan, context)
    data = _calibrated(job, request, context, progress)
    for index in range(len(rows), len(points)):
        point = points[index]
        tell = _within(progress, point_stages(point, request), index, len(points))
        attempt = Attempt(job, context, tell, journal, request.plan, data)
        made = attempt.run(point.recipe, tell)
        rows.append(row_of(point, made, request.plan.sampling))
        _note(job, context, rows)
    progress("plot", 0, 1)
    table = table_of(rows, request)
    stored = _store(table, request.plan, context)
    progress("plot", 1, 1)
    files = {
        name: {"sha256": one.sha256, "size_bytes": one.size_bytes}
        for name, one in stored.items()
    }
    return Succeeded(
        result={
            **table,
            "pareto": files["pareto.json"],
            "picture": files["pareto.png"],
        },
        artifacts={**artifacts_of(rows), **stored},
    )


def _finished(job: Job, points: Sequence[Wanted]) -> list[Row]:
    """Return the points that an earlier attempt has left on the row."""
    rows: list[Row] = []
    for row, point in zip((job.result or {}).get("rows", []), points, strict=False):
        named = point.described()
        if {key: row.get(key) for key in named} != named:
            break
        rows.append(row)
    return rows


def _calibrated(
    job: Job, request: SweepRequest, context: Context, progress: Progress
) -> CalibrationSet:
    """Record the calibration that all points share, exactly as each alone would."""
    model = fetch_model(job.model, context.settings)
    describe(job, context, model.info)
    pipeline = diffusion.load_pipeline(model.folder, device=context.device)
    data = quantization.calibrate(
        pipeline,
        request.calibration,
        journal=NoJournal(),
        progress=lambda _stage, done, total: progress("fetch", done, total),
    )
    del pipeline
    return_memory(context.device)
    return data


def _within(
    progress: Progress, stages: tuple[Stage, ...], index: int, count: int
) -> Progress:
    """Return the progress of a point as a share of the stage `points`."""

    def tell(stage: str, done: int, total: int) -> None:
        share = progress_of(stages, stage, done=done, total=total).fraction
        done_all = int(PERMILLE_ALL * (index + share) / count)
        progress("points", done_all, PERMILLE_ALL)

    return tell


def _note(job: Job, context: Context, rows: list[Row]) -> None:
    with context.sessions.begin() as session:
        repository.note(session, lease_of(job), result={"rows": rows}, now=utc_now())


def _store(
    table: dict[str, Any], evaluation: EvaluationPlan, context: Context
) -> dict[str, StoredArtifact]:
    document = json.dumps(table, indent=2).encode()
    picture = plot(table, metric=evaluation.metrics[0])
    put = context.store.put_bytes
    return {
        "pareto.json": put(document, media_type="application/json"),
        "pareto.png": put(picture, media_type="image/png"),
    }

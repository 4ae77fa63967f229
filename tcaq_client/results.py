"""What the service answers, as frozen data.

`raw` is the JSON object itself, for fields that a later service adds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Self, TypeAlias

from tcaq_client.scores import Score, SweepPoint

JsonObject: TypeAlias = Mapping[str, Any]

TERMINAL: Final = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True)
class Progress:
    """How far a job is; everything is None until the service knows it."""

    stage: str | None
    stage_index: int | None
    """Counts from 0."""
    stage_count: int | None
    percent: float
    """0 to 100, of the whole job."""
    done: int | None
    """Finished units of the present stage."""
    total: int | None
    unit: str | None
    eta_seconds: float | None

    @classmethod
    def from_json(cls, job: JsonObject) -> Self:
        """Read the `stage` and `progress` members of a job object."""
        stage: JsonObject = job.get("stage") or {}
        progress: JsonObject = job.get("progress") or {}
        eta = progress.get("eta_s")
        return cls(
            stage=stage.get("name"),
            stage_index=stage.get("index"),
            stage_count=stage.get("count"),
            percent=float(progress.get("percent") or 0.0),
            done=progress.get("done"),
            total=progress.get("total"),
            unit=progress.get("unit"),
            eta_seconds=None if eta is None else float(eta),
        )


@dataclass(frozen=True)
class Step:
    """One stage of a job."""

    name: str
    status: str
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def from_json(cls, step: JsonObject) -> Self:
        """Read one item of a job's `steps`."""
        return cls(
            name=str(step["name"]),
            status=str(step["status"]),
            started_at=moment(step.get("started_at")),
            finished_at=moment(step.get("finished_at")),
        )

    @property
    def seconds(self) -> float | None:
        """How long it took; None while it has not finished."""
        if self.started_at is None or self.finished_at is None:
            return None
        return (self.finished_at - self.started_at).total_seconds()


@dataclass(frozen=True)
class Failure:
    """Why a job failed; `code` comes from the service's closed list."""

    code: str
    detail: str
    hint: str
    is_retryable: bool

    @classmethod
    def from_json(cls, error: JsonObject) -> Self:
        """Read a job's `error` member."""
        return cls(
            code=str(error["code"]),
            detail=str(error.get("detail") or error["code"]),
            hint=str(error.get("hint") or ""),
            is_retryable=bool(error.get("retryable")),
        )


@dataclass(frozen=True)
class Job:
    """A job as the service last described it."""

    id: str
    kind: str
    status: str
    model: str
    """Reference of the model, as submitted."""
    progress: Progress
    steps: tuple[Step, ...]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    recipe: JsonObject | None
    result: JsonObject | None
    error: Failure | None
    warnings: tuple[JsonObject, ...]
    raw: JsonObject = field(repr=False)

    @classmethod
    def from_json(cls, job: JsonObject) -> Self:
        """Read a job object (GET /jobs/{id})."""
        error = job.get("error")
        return cls(
            id=str(job["id"]),
            kind=str(job["kind"]),
            status=str(job["status"]),
            model=str(job["model"]["reference"]),
            progress=Progress.from_json(job),
            steps=tuple(Step.from_json(step) for step in job.get("steps") or ()),
            created_at=datetime.fromisoformat(job["created_at"]),
            started_at=moment(job.get("started_at")),
            finished_at=moment(job.get("finished_at")),
            recipe=job.get("recipe"),
            result=job.get("result"),
            error=Failure.from_json(error) if error else None,
            warnings=tuple(job.get("warnings") or ()),
            raw=job,
        )

    @property
    def is_terminal(self) -> bool:
        """Whether the status can no longer change."""
        return self.status in TERMINAL

    @property
    def speedup(self) -> Mapping[str, float]:
        """How much faster than the model an evaluation is, ``over_float32`` and so on.

        Empty where the worker did not time it.
        """
        return ((self.result or {}).get("benchmark") or {}).get("speedup") or {}

    @property
    def scores(self) -> tuple[Score, ...]:
        """What its evaluation measured; empty without one, and until it has ended."""
        evaluation = (self.result or {}).get("evaluation") or {}
        return tuple(map(Score.from_json, evaluation.get("scores") or ()))

    @property
    def points(self) -> tuple[SweepPoint, ...]:
        """What a sweep made; empty for other kinds, and until it has ended."""
        points = (self.result or {}).get("points") or ()
        return tuple(map(SweepPoint.from_json, points))


@dataclass(frozen=True)
class Page:
    """One page of GET /jobs."""

    jobs: tuple[Job, ...]
    next: str | None
    """Cursor of the page after it; None: this is the last."""

    @classmethod
    def from_json(cls, page: JsonObject) -> Self:
        """Read a list object."""
        return cls(
            jobs=tuple(map(Job.from_json, page["data"])),
            next=str(page["next"]) if page["has_more"] else None,
        )


def moment(text: str | None) -> datetime | None:
    """Return the moment of an RFC 3339 string, or None for None."""
    return None if text is None else datetime.fromisoformat(text)

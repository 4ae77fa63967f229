"""The stages that a job has begun, as its row lists them."""

from datetime import datetime

from jobs.models import Json
from jobs.status import JobStatus


def advance(steps: list[Json], stage: str, now: datetime) -> list[Json]:
    """Return the steps with `stage` begun, and the one before it ended."""
    if steps and steps[-1]["name"] == stage:
        return steps
    begun = {
        "name": stage,
        "status": JobStatus.RUNNING.value,
        "started_at": now.isoformat(),
        "finished_at": None,
    }
    return [*close_steps(steps, JobStatus.SUCCEEDED, now), begun]


def close_steps(steps: list[Json], status: JobStatus, now: datetime) -> list[Json]:
    """Return the steps with the one that is open ended as `status`."""
    ended = {"status": status.value, "finished_at": now.isoformat()}
    return [
        step if step["finished_at"] is not None else {**step, **ended} for step in steps
    ]

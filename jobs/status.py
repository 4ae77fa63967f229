"""A job's states and the transitions that are legal between them."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class JobStatus(StrEnum):
    """Where a job stands; `cancelling` waits for the worker to confirm."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL: Final = frozenset(
    {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}
)

LEGAL: Final[Mapping[JobStatus, frozenset[JobStatus]]] = MappingProxyType(
    {
        JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.CANCELLED}),
        JobStatus.RUNNING: frozenset(
            {
                JobStatus.SUCCEEDED,
                JobStatus.FAILED,
                JobStatus.CANCELLING,
                # The worker was lost or gave the job back.
                JobStatus.QUEUED,
            }
        ),
        # A job may finish in the moment before its worker sees the request.
        JobStatus.CANCELLING: TERMINAL,
        JobStatus.SUCCEEDED: frozenset(),
        JobStatus.FAILED: frozenset(),
        JobStatus.CANCELLED: frozenset(),
    }
)


def is_terminal(status: JobStatus) -> bool:
    """Return whether the job will never change again."""
    return status in TERMINAL


def sources(target: JobStatus) -> frozenset[JobStatus]:
    """Return the states from which `target` may be reached."""
    return frozenset(status for status, after in LEGAL.items() if target in after)

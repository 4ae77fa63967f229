"""Every way the ledger can refuse, drawn as one tree.

JobError                     code
├── JobNotFound              job_not_found
├── ArtifactNotFound         artifact_not_found
├── ArtifactCorrupt          artifact_corrupt
├── JobNotReady              job_not_ready
├── IllegalTransition        illegal_transition
├── LeaseLost                lease_lost
└── QueueUnavailable         queue_unavailable

``detail`` says what happened, ``hint`` what the caller can do about it. HTTP statuses
are the service's business.
"""

from typing import ClassVar


class JobError(Exception):
    """Base of every refusal of the ledger."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str, *, hint: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint


class JobNotFound(JobError):
    """No job has that id."""

    code = "job_not_found"


class ArtifactNotFound(JobError):
    """No artifact has that SHA-256."""

    code = "artifact_not_found"


class ArtifactCorrupt(JobError):
    """A stored file is not the one its name promises."""

    code = "artifact_corrupt"


class JobNotReady(JobError):
    """The job has not finished, so it has no result to use yet."""

    code = "job_not_ready"
    retryable = True


class IllegalTransition(JobError):
    """The job's state does not allow what was asked."""

    code = "illegal_transition"


class LeaseLost(JobError):
    """The row belongs to another worker, or to nobody, by now."""

    code = "lease_lost"


class QueueUnavailable(JobError):
    """The broker does not answer."""

    code = "queue_unavailable"
    retryable = True

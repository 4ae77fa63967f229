"""All SQL on the ledger, by concern; callers import from here and commit themselves."""

from jobs.claims import (
    Lease,
    Resumption,
    cancelled,
    claim,
    describe,
    fail,
    finish,
    heartbeat,
    lease_of,
    note,
    release,
)
from jobs.reaping import ReapReport, reap
from jobs.submission import (
    Page,
    ahead,
    artifact,
    get,
    job_artifacts,
    page,
    request_cancel,
    submit,
)

__all__ = [
    "Lease",
    "Page",
    "ReapReport",
    "Resumption",
    "ahead",
    "artifact",
    "cancelled",
    "claim",
    "describe",
    "fail",
    "finish",
    "get",
    "heartbeat",
    "job_artifacts",
    "lease_of",
    "note",
    "page",
    "reap",
    "release",
    "request_cancel",
    "submit",
]

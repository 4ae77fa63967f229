"""Identifiers: UUIDv7 inside (they sort by creation), a prefixed form outside."""

import re
from typing import Final
from uuid import UUID

import uuid_utils.compat

from jobs.errors import JobNotFound
from jobs.models import JobKind

PREFIXES: Final = {
    JobKind.QUANTIZE: "job",
    JobKind.SAMPLE: "sample",
    JobKind.EVALUATE: "job",
    JobKind.SWEEP: "job",
}

_PUBLIC_ID: Final = re.compile(r"(?:job|sample)_([0-9a-f]{32})", re.ASCII)


def new_id() -> UUID:
    """Return a fresh UUIDv7."""
    return uuid_utils.compat.uuid7()


def public_id(kind: JobKind, job_id: UUID) -> str:
    """Return ``job_<32 hex digits>``, or ``sample_…`` for a sample."""
    return f"{PREFIXES[kind]}_{job_id.hex}"


def parse_id(text: str) -> UUID:
    """Return the UUID inside a public id.

    Raises:
        JobNotFound: not of that form, so no job can have it.
    """
    match = _PUBLIC_ID.fullmatch(text)
    if match is None:
        # The text is not echoed: it may be anything.
        raise JobNotFound(
            "That is not the id of a job.",
            hint="Ids look like job_ or sample_ and 32 hexadecimal digits.",
        )
    return UUID(match[1])

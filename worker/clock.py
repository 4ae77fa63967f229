"""The time as the ledger keeps it."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Return the present instant in UTC."""
    return datetime.now(UTC)

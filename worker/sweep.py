"""Delete journals that nobody went on from; without torch, as the reaper is."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from jobs.settings import Settings

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def sweep(settings: Settings, *, now: datetime) -> list[str]:
    """Delete the journals that nothing was written to for long; return their names.

    A job whose journal is gone begins at the beginning: no harm is done.
    """
    oldest = now - timedelta(days=settings.journal_days)
    swept = []
    for folder in settings.journals.glob("*/"):
        if _changed_at(folder) < oldest:
            shutil.rmtree(folder, ignore_errors=True)
            swept.append(folder.name)
    if swept:
        _logger.info("old journals were deleted", fingerprints=swept)
    return swept


def _changed_at(folder: Path) -> datetime:
    times = [folder.stat().st_mtime]
    for path in folder.rglob("*"):
        try:
            times.append(path.stat().st_mtime)
        except FileNotFoundError:  # written aside a moment ago, renamed since
            continue
    return datetime.fromtimestamp(max(times), UTC)

"""Delete what nobody goes on from or uses; without torch, as the reaper is."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import ArtifactStore
from jobs.settings import Settings
from jobs.shards import delete_set, unused_sets

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


def sweep_shards(
    sessions: sessionmaker[Session],
    store: ArtifactStore,
    settings: Settings,
    *,
    now: datetime,
) -> list[str]:
    """Delete the shard sets that no job used for long; return their digests.

    Their files go, too, except those that the ledger names elsewhere. A job that needs
    such a set again makes it again.
    """
    oldest = now - timedelta(days=settings.shard_days)
    with sessions.begin() as session:
        swept = unused_sets(session, older_than=oldest)
        orphans = [sha256 for digest in swept for sha256 in delete_set(session, digest)]
    # After the commit: a row whose file is gone does harm, a file without a row none.
    for sha256 in orphans:
        store.delete(sha256, stored_before=oldest)
    if swept:
        _logger.info("old shards were deleted", sets=swept, files=len(orphans))
    return list(swept)


def _changed_at(folder: Path) -> datetime:
    times = [folder.stat().st_mtime]
    for path in folder.rglob("*"):
        try:
            times.append(path.stat().st_mtime)
        except FileNotFoundError:  # written aside a moment ago, renamed since
            continue
    return datetime.fromtimestamp(max(times), UTC)

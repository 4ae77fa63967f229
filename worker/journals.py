"""Where a job's finished parts are kept from one attempt to the next."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import assert_never

from jobs.settings import Settings
from tcaq_core.errors import ExportFailed, ResumeRefused
from tcaq_core.journal import FolderJournal
from worker.outcome import Failed, Outcome, Stopped, Succeeded


class AttemptJournal:
    """The journals of one attempt at a job: one for each recipe that it tries.

    A folder is named by the fingerprint, not by the job: a job that failed for want
    of memory can be submitted again and goes on where it stopped. Two jobs with one
    fingerprint write the same entries; when one ends and the folder goes, the other
    writes its next entries into a new one.
    """

    def __init__(self, settings: Settings, resumed: Callable[[str], None]) -> None:
        self._root = settings.journals
        self._resumed = resumed
        self._folders: list[Path] = []
        self._finished: set[Path] = set()

    def open(self, fingerprint: str) -> FolderJournal:
        """Return the journal of everything that has this fingerprint."""
        folder = self._root / fingerprint
        self._folders.append(folder)
        return FolderJournal(folder, fingerprint, self._resumed)

    def finished(self) -> None:
        """Say that what was opened so far has led to checkpoints that reload.

        What fails after that, a score or another recipe, is not for what they hold.
        """
        self._finished.update(self._folders)

    def close(self, outcome: Outcome) -> None:
        """Delete what was saved, unless another attempt could go on from it.

        Call it once the outcome is on the row: who has lost the lease must not.
        """
        if _is_wanted(outcome):
            return
        kept = self._finished if isinstance(outcome, Failed) else set()
        for folder in set(self._folders) - kept:
            # A worker that was given up may still write there: `sweep` comes later.
            shutil.rmtree(folder, ignore_errors=True)


def _is_wanted(outcome: Outcome) -> bool:
    match outcome:
        case Succeeded():
            return False
        case Failed(error):
            # Without the export that failed, the same job goes on where this one was.
            if error["code"] == ExportFailed.code:
                return True
            # A journal that was refused would be refused again.
            return bool(error["retryable"]) and error["code"] != ResumeRefused.code
        case Stopped(gives_back):
            return gives_back
        case _:
            assert_never(outcome)

"""How an attempt at a job ended."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jobs.artifacts import StoredArtifact

Progress = Callable[[str, int, int], None]
"""Takes (stage, done, total); raises `Interrupted` when the work must stop."""


@dataclass(frozen=True)
class Succeeded:
    """The work is done: the row's result and what was stored, by name."""

    result: Mapping[str, Any]
    artifacts: Mapping[str, StoredArtifact]


@dataclass(frozen=True)
class Failed:
    """The work cannot be done; `error` is the problem on the row."""

    error: Mapping[str, Any]


@dataclass(frozen=True)
class Stopped:
    """The work was interrupted and has left nothing behind."""

    gives_back: bool
    """Whether the job should go back to the queue."""


Outcome = Succeeded | Failed | Stopped

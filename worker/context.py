"""What a working process holds: built once in the child that does the work."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

import torch
from celery import Celery
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import ArtifactStore, make_store
from jobs.database import make_sessions
from jobs.settings import Settings
from tcaq_core.environment import make_deterministic
from tcaq_core.evaluation.features import Extractor
from worker.models import Loaded
from worker.recent import Recent


@dataclass(frozen=True)
class Context:
    """Everything that working on a job needs."""

    settings: Settings
    sessions: sessionmaker[Session]
    store: ArtifactStore
    celery: Celery
    device: torch.device
    owner: str
    """This process's name on the rows that it works on."""
    pipelines: Recent[Loaded]
    """Pipelines that stay loaded from one sample to the next."""
    extractors: Recent[Extractor]
    """Feature networks that stay loaded from one shard to the next."""

    @property
    def scratch(self) -> Path:
        """A folder for temporary files, beside the caches: it may become large."""
        folder = self.settings.data_directory / "scratch"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def make_context(settings: Settings, celery: Celery) -> Context:
    """Build what this process needs; connections open at their first use."""
    make_deterministic()
    return Context(
        settings=settings,
        sessions=make_sessions(settings),
        store=make_store(settings),
        celery=celery,
        device=_choose_device(settings),
        owner=f"{socket.gethostname()[:200]}:{os.getpid()}",
        pipelines=Recent(settings.sample_cache_size),
        extractors=Recent(2),
    )


def _choose_device(settings: Settings) -> torch.device:
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(settings.device)

"""A working process's context in this process, with a tiny model to work on."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
import structlog
from sqlalchemy import Engine

from jobs import repository
from jobs.models import Job
from jobs.queue import make_celery
from jobs.settings import Settings
from jobs.status import JobStatus
from migrations.upgrade import upgrade
from tests.factories import make_job
from tests.tiny import save_tiny_pipeline
from worker.clock import utc_now
from worker.context import Context, make_context
from worker.logs import configure_logging
from worker.run import run_job


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    configure_logging()
    yield
    structlog.reset_defaults()


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    """Return a context on SQLite whose models folder holds ``tiny``."""
    with _make_context(tmp_path) as made:
        upgrade(made.settings)
        save_tiny_pipeline(made.settings.models_directory / "tiny", seed=1)
        yield made


@pytest.fixture(scope="session")
def quantized_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, UUID]:
    """Return a folder in which one quantization has succeeded, and the job's id."""
    folder = tmp_path_factory.mktemp("quantized")
    with _make_context(folder) as made:
        upgrade(made.settings)
        save_tiny_pipeline(made.settings.models_directory / "tiny", seed=1)
        with made.sessions.begin() as session:
            job_id = make_job(session, now=utc_now()).id
        run_job(job_id, made)
    return folder, job_id


@dataclass(frozen=True)
class Finished:
    """A context of this test's own, and a quantization that has succeeded in it."""

    context: Context
    job: Job


@pytest.fixture
def finished(quantized_once: tuple[Path, UUID], tmp_path: Path) -> Iterator[Finished]:
    """Return a copy of `quantized_once` that the test may change."""
    folder, job_id = quantized_once
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    with _make_context(tmp_path) as made:
        with made.sessions() as session:
            job = repository.get(session, job_id)
        assert job.status == JobStatus.SUCCEEDED, job.error
        yield Finished(made, job)


@contextmanager
def _make_context(folder: Path) -> Iterator[Context]:
    settings = Settings(
        data_directory=folder / "data",
        database_url=None,
        broker_url=None,
        models_directory=folder / "models",
        heartbeat_seconds=0.05,
        sample_cache_size=2,
        device="cpu",
        allow_hub=False,
    )
    celery = make_celery(settings)
    made = make_context(settings, celery)
    yield made
    celery.close()
    engine = made.sessions.kw["bind"]
    assert isinstance(engine, Engine)
    engine.dispose()

"""A working process's context without a model: shards are made by the tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobs.queue import make_celery
from jobs.settings import Settings
from migrations.upgrade import upgrade
from worker.context import Context, make_context


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    """Return a context on SQLite."""
    settings = _quick(Settings(data_directory=tmp_path / "data", database_url=None))
    upgrade(settings)
    with _context(settings) as made:
        yield made


@pytest.fixture
def any_context(settings: Settings) -> Iterator[Context]:
    """Return a context on SQLite, then one on PostgreSQL."""
    with _context(_quick(settings)) as made:
        yield made


@contextmanager
def _context(settings: Settings) -> Iterator[Context]:
    celery = make_celery(settings)
    made = make_context(settings, celery)
    yield made
    celery.close()
    engine = made.sessions.kw["bind"]
    assert isinstance(engine, Engine)
    engine.dispose()


def _quick(settings: Settings) -> Settings:
    # The lease is long enough for a machine that is busy with other tests.
    quick = {"heartbeat_seconds": 0.05, "lease_seconds": 4.0, "device": "cpu"}
    given = settings.model_dump(include=settings.model_fields_set)
    return Settings(**(given | quick))

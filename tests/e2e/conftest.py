"""Two deployments: the embedded default, and PostgreSQL with Redis."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from jobs.database import make_sessions
from jobs.models import JobKind
from jobs.queue import make_celery
from jobs.settings import Settings
from jobs.status import JobStatus
from migrations.upgrade import upgrade
from tcaq_core.recipe import (
    DAQ,
    PAR,
    TCR,
    CalibrationSpec,
    FitRanges,
    Method,
    Recipe,
    resolve,
)
from tests.conftest import new_database
from tests.e2e.deployment import Deployment, environment_of
from tests.tiny import save_tiny_pipeline

REDIS_DATABASE = "/9"


@pytest.fixture(scope="module", params=["embedded", "servers"])
def deployment(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """Return each deployment in turn, migrated, with no process running yet."""
    folder = tmp_path_factory.mktemp(request.param)
    database = broker = None
    with ExitStack() as stack:
        if request.param == "servers":
            server = request.getfixturevalue("postgres_url")
            database = SecretStr(stack.enter_context(new_database(server)))
            redis = request.getfixturevalue("redis_url")
            broker = SecretStr(redis.removesuffix("/0") + REDIS_DATABASE)
        settings = _settings(folder, database, broker)
        settings.data_directory.mkdir(parents=True, exist_ok=True)
        upgrade(settings)
        save_tiny_pipeline(settings.models_directory / "tiny", seed=1)
        sessions, celery = make_sessions(settings), make_celery(settings)
        yield Deployment(settings, environment_of(settings), sessions, celery)
        celery.close()
        engine = sessions.kw["bind"]
        assert isinstance(engine, Engine)
        engine.dispose()


def _settings(
    folder: Path, database: SecretStr | None, broker: SecretStr | None
) -> Settings:
    return Settings(
        data_directory=folder / "data",
        database_url=database,
        broker_url=broker,
        models_directory=folder / "models",
        # A busy machine may stop a process for a second; it is not lost then.
        lease_seconds=6,
        heartbeat_seconds=0.5,
        reap_seconds=1,
        requeue_after_seconds=3,
        device="cpu",
        allow_hub=False,
    )


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """Return a recipe with every pass that takes a few seconds on the tiny model."""
    return resolve(
        Method(
            passes=(
                TCR(),
                FitRanges(weight="min_max", activation="min_max"),
                DAQ(),
                PAR(rounds=1, iterations=20, round_iterations=10, batch_size=4),
            )
        ),
        weight_bits=4,
        activation_bits=8,
        calibration=CalibrationSpec(num_samples=2, num_steps=4),
    )


@pytest.fixture(scope="module")
def undisturbed(deployment: Deployment, recipe: Recipe) -> str:
    """Return the checkpoint's SHA-256 of a run that nothing disturbed."""
    with deployment.worker():
        job_id = deployment.submit(JobKind.QUANTIZE, recipe=recipe)
        job = deployment.wait_until_ended(job_id)
    assert job.status == JobStatus.SUCCEEDED, job.error
    assert job.attempt == 1
    assert job.result is not None
    return str(job.result["checkpoint"]["sha256"])

"""The service on a real SQLite file, a real store and a real filesystem broker."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from jobs.settings import Settings
from migrations.upgrade import upgrade
from service.app import create_app
from tests.service.evaluations import make_evaluation_folder
from tests.service.models import W4A8, make_model


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return settings on a migrated SQLite file, one model and one feature network."""
    made = Settings(
        data_directory=tmp_path / "data",
        models_directory=tmp_path / "models",
        evaluation_directory=tmp_path / "evaluation",
        inception_weights=None,
    )
    make_model(made.models_directory / "tiny")
    make_evaluation_folder(made.evaluation_directory)
    upgrade(made)
    return made


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    """Return the application on those settings."""
    return create_app(settings)


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """Return a client of the running application."""
    with TestClient(app) as opened:
        yield opened


@pytest.fixture
def job_id(client: TestClient) -> str:
    """Return the id of a queued quantization of the model ``tiny`` at W4A8."""
    submitted = client.post("/jobs", json=W4A8)
    assert submitted.status_code == 202
    return str(submitted.json()["id"])

"""A real service on a real socket, and what its workers would do."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import uvicorn
from sqlalchemy.orm import Session, sessionmaker

from jobs import repository
from jobs.artifacts import ArtifactStore
from jobs.settings import Settings
from migrations.upgrade import upgrade
from service.app import create_app
from tcaq_client import Client
from tests.client.answers import tar
from tests.service import ledger
from tests.service.evaluations import make_evaluation_folder
from tests.service.models import make_model, make_pickled_model

FILES = {"manifest.json": b"{}", "unet/weights.safetensors": bytes(range(256)) * 999}


@dataclass(frozen=True)
class Service:
    """A running service and its ledger, for what a worker would do."""

    url: str
    sessions: sessionmaker[Session]
    store: ArtifactStore
    evaluation: Path
    """Its feature networks and references."""


@contextmanager
def serving(tmp_path: Path) -> Iterator[Service]:
    """Serve a migrated ledger, two models and a feature network on a free port."""
    models = tmp_path / "models"
    make_model(models / "tiny")
    make_pickled_model(models / "pickled")
    settings = Settings(
        data_directory=tmp_path / "data",
        models_directory=models,
        evaluation_directory=tmp_path / "evaluation",
        inception_weights=None,
    )
    make_evaluation_folder(settings.evaluation_directory)
    upgrade(settings)
    app = create_app(settings)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    resources = app.state.resources
    try:
        url = f"http://127.0.0.1:{port}"
        yield Service(
            url, resources.sessions, resources.store, settings.evaluation_directory
        )
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def connected(service: Service) -> Iterator[Client]:
    """Return a client that hardly waits between two looks."""
    with Client(service.url, sleep=lambda _: time.sleep(0.01)) as opened:
        yield opened


def submit(client: Client) -> str:
    """Queue a quantization and return its id."""
    return client.submit(
        "tiny", weight_bits=4, activation_bits=8, labels={"team": "a"}
    ).id


def finish(service: Service, job_id: str) -> str:
    """End a job with a checkpoint, as a worker does; return its SHA-256."""
    lease = ledger.claim(service.sessions, job_id)
    stored = service.store.put_bytes(tar(FILES), media_type="application/x-tar")
    result = {"checkpoint": {"sha256": stored.sha256, "size_bytes": stored.size_bytes}}
    with service.sessions.begin() as session:
        repository.finish(
            session,
            lease,
            result=result,
            artifacts={"checkpoint": stored},
            now=datetime.now(UTC),
        )
    return stored.sha256

"""``tcaq up``: server, workers and schedule on this machine, until interrupted."""

import http.client
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event
from typing import Any, Final

from jobs.models import JobKind
from jobs.queue import MAINTENANCE_QUEUE, SHARDS_QUEUE
from jobs.settings import Settings
from jobs.supervisor import Program, Supervisor, python
from migrations.upgrade import upgrade

POLL_SECONDS: Final = 0.2
# Waiting requests are cut off: they may last for minutes.
GRACE_SECONDS: Final = 5
# Jobs that take minutes to hours; a sample must not wait behind them.
LONG: Final = (JobKind.QUANTIZE, JobKind.EVALUATE, JobKind.SWEEP)


def up(
    host: str | None = None,
    port: int | None = None,
    data: Path | None = None,
    workers: int = 0,
) -> None:
    """Run server and workers until Ctrl-C; all they write is below DATA.

    What is not given comes from TCAQ_HOST, TCAQ_PORT, TCAQ_DATA_DIRECTORY. WORKERS
    more processes help to draw the images of evaluations; set OMP_NUM_THREADS so that
    they do not fight for the cores.
    """
    if workers < 0:
        raise SystemExit("--workers must not be negative.")
    given: dict[str, Any] = {"host": host, "port": port, "data_directory": data}
    settings = Settings(**{k: v for k, v in given.items() if v is not None})
    with _stop_signals() as stop:
        upgrade(settings)
        logs = settings.data_directory / "logs"
        with Supervisor(
            programs(settings, workers=workers),
            logs=logs,
            environment=_environment(settings),
            say=_say,
        ) as supervisor:
            _await_ready(settings, supervisor, stop)
            if not stop.is_set():
                _say(f"Ready on http://{settings.host}:{settings.port}")
                _say(f"Data in {settings.data_directory}; logs in {logs}")
            supervisor.supervise(stop)
    _say("Stopped.")


def programs(settings: Settings, *, workers: int = 0) -> tuple[Program, ...]:
    """Return what has to run: server, clock, a worker for samples, one for the rest.

    And as many helpers as `workers` says.
    """
    server = ["--factory", "service.app:create_app", "--host", settings.host]
    server += ["--port", str(settings.port)]
    server += ["--timeout-graceful-shutdown", str(GRACE_SECONDS)]
    celery = ("-m", "celery", "--app", "worker.app")
    return (
        Program("service", python("-m", "uvicorn", *server), signal.SIGTERM),
        _worker("quantize", *LONG, SHARDS_QUEUE),
        _worker("sample", JobKind.SAMPLE),
        *(_worker(f"shards-{number + 1}", SHARDS_QUEUE) for number in range(workers)),
        Program("beat", python(*celery, "beat", "--loglevel", "INFO"), signal.SIGTERM),
    )


def _worker(name: str, *queues: str) -> Program:
    celery = ("-m", "celery", "--app", "worker.app", "worker", "--loglevel", "INFO")
    # Any may reap: while one is busy for hours, another does it.
    listened = ",".join((*queues, MAINTENANCE_QUEUE))
    command = python(*celery, "--queues", listened, "--hostname", f"{name}@%h")
    # SIGQUIT is Celery's cold shutdown: the job at hand goes back to the queue.
    return Program(name, command, signal.SIGQUIT)


def _environment(settings: Settings) -> dict[str, str]:
    return os.environ | {
        "TCAQ_HOST": settings.host,
        "TCAQ_PORT": str(settings.port),
        "TCAQ_DATA_DIRECTORY": str(settings.data_directory),
        # Logs are read while they are written.
        "PYTHONUNBUFFERED": "1",
    }


def _await_ready(settings: Settings, supervisor: Supervisor, stop: Event) -> None:
    while not _is_ready(settings):
        dead = supervisor.first_death()
        if dead is not None:
            raise SystemExit(
                f"{dead.program.name} did not start. Its last words ({dead.log}):\n"
                f"{dead.tail()}"
            )
        if stop.wait(POLL_SECONDS):
            return


def _is_ready(settings: Settings) -> bool:
    with closing(
        http.client.HTTPConnection(settings.host, settings.port, timeout=5)
    ) as connection:
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == http.HTTPStatus.OK
        except OSError:
            return False


@contextmanager
def _stop_signals() -> Iterator[Event]:
    stop = Event()

    def handle(_number: int, _frame: Any) -> None:  # noqa: ANN401 - signal's signature
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()

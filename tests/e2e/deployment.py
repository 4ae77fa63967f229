"""A deployment of real processes for tests: a database, a broker, Celery workers."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from celery import Celery
from sqlalchemy.orm import Session, sessionmaker

from jobs import repository
from jobs.models import Job, JobKind
from jobs.queue import QUEUES, ring
from jobs.settings import Settings
from jobs.status import is_terminal
from tcaq_core.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 180.0
POLL_SECONDS = 0.05
CELERY = (sys.executable, "-m", "celery", "--app", "worker.app")


@dataclass(frozen=True)
class Deployment:
    """Settings, the environment that says the same to child processes, and access."""

    settings: Settings
    environment: Mapping[str, str]
    sessions: sessionmaker[Session]
    celery: Celery

    def submit(
        self,
        kind: JobKind,
        *,
        recipe: Recipe | None = None,
        request: Mapping[str, Any] | None = None,
        max_attempts: int = 3,
        rings: int = 1,
    ) -> UUID:
        """Queue a job on the tiny model and ring `rings` times."""
        with self.sessions.begin() as session:
            job = repository.submit(
                session,
                kind=kind,
                request=request or {},
                model="tiny",
                recipe=recipe,
                max_attempts=max_attempts,
                now=datetime.now(UTC),
            )
            for _ in range(rings):
                ring(session, job, self.celery)
        return job.id

    def read(self, job_id: UUID) -> Job:
        """Return the job's row as it is now."""
        with self.sessions.begin() as session:
            return repository.get(session, job_id)

    def wait(self, job_id: UUID, until: Callable[[Job], bool]) -> Job:
        """Poll the row until `until` holds; give up loudly if the job ends first."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            job = self.read(job_id)
            if until(job):
                return job
            state = f"{job.status}, {job.stage}, attempt {job.attempt}: {job.error}"
            assert not is_terminal(job.status), f"ended too early: {state}"
            assert time.monotonic() < deadline, f"waited too long: {state}"
            time.sleep(POLL_SECONDS)

    def wait_until_ended(self, job_id: UUID) -> Job:
        """Poll the row until the job has ended, well or badly."""
        return self.wait(job_id, lambda job: is_terminal(job.status))

    def log(self, name: str) -> Path:
        """Return the log file of a process started with `process`."""
        return self.settings.data_directory / f"{name}.log"

    @contextmanager
    def process(self, name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run ``celery <arguments>`` in a group of its own, killed at the end."""
        with (
            self.log(name).open("ab") as log,
            subprocess.Popen(
                [*CELERY, *arguments],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            ) as process,
        ):
            try:
                yield process
            finally:
                kill_group(process)

    @contextmanager
    def worker(
        self, queues: str = ",".join(QUEUES)
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run a Celery worker."""
        arguments = ("worker", "--queues", queues, "--loglevel", "INFO")
        with self.process("worker", *arguments) as process:
            yield process

    @contextmanager
    def beat(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run the scheduler that sends the reaper out."""
        with self.process("beat", "beat", "--loglevel", "INFO") as process:
            yield process


def environment_of(settings: Settings) -> dict[str, str]:
    """Return this process's environment with the settings as TCAQ_ variables."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TCAQ_")}
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        if value is None:
            continue
        secret = getattr(value, "get_secret_value", None)
        environment[f"TCAQ_{name.upper()}"] = str(secret() if secret else value)
    # Threads that wait for one another crawl on a machine that runs other tests, too.
    return environment | {"OMP_NUM_THREADS": "1"}


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all its children, as a power cut would."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def worker_pid(job: Job) -> int:
    """Return the process that holds the job's lease: a child of the Celery worker."""
    assert job.lease_owner is not None
    return int(job.lease_owner.rpartition(":")[2])


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Return once the condition holds; give up loudly after a long time."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited too long for {what}"
        time.sleep(POLL_SECONDS)


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that only waits to be reaped does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"

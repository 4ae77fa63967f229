"""Fixtures: real PostgreSQL and Redis servers, ledgers on both databases, a store."""

import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
import redis
from psycopg import sql
from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import LocalStore
from jobs.database import make_sessions
from jobs.settings import Settings
from migrations.upgrade import upgrade

# Tiny models gain nothing from threads, and lose much where processes share the cores.
# Before anything imports torch; processes that a test starts inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The Triton kernels' tests: on a GPU where there is one, else in Triton's interpreter.
# Before anything imports triton.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

POSTGRES_FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)

Sessions = sessionmaker[Session]
MakeSettings = Callable[..., Settings]


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Return the URL of a PostgreSQL server that lives as long as the test run."""
    programs = os.pathsep.join([os.environ["PATH"], *map(str, POSTGRES_FOLDERS)])
    initdb = shutil.which("initdb", path=programs)
    if initdb is None:
        pytest.skip("PostgreSQL is not installed: no initdb in PATH")
    # PostgreSQL refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="tcaq-postgres-") as folder:
        if user is not None:
            shutil.chown(folder, user)
        data = Path(folder) / "data"
        _run([initdb, "--pgdata", data, "--username=tcaq", "--auth=trust"], user)
        pg_ctl = str(Path(initdb).with_name("pg_ctl"))
        # Durability is not what a scratch server is for.
        options = f"-p {port} -h 127.0.0.1 -k {folder} -c fsync=off"
        log = Path(folder) / "log"
        server = [pg_ctl, "--wait", "-D", str(data), "-l", str(log), "-o", options]
        _run([*server, "start"], user)
        try:
            yield f"postgresql://tcaq@127.0.0.1:{port}/postgres"
        finally:
            _run([*server[:4], "-m", "immediate", "stop"], user)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Return the URL of a Redis server that lives as long as the test run."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("Redis is not installed: no redis-server in PATH")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1"]
    command += ["--save", "", "--appendonly", "no"]
    with (
        tempfile.TemporaryDirectory(prefix="tcaq-redis-") as folder,
        (Path(folder) / "log").open("w") as log,
        subprocess.Popen(command, cwd=folder, stdout=log, stderr=log) as process,
    ):
        try:
            url = f"redis://127.0.0.1:{port}/0"
            _await_redis(url, process)
            yield url
        finally:
            process.terminate()


@contextmanager
def new_database(server_url: str) -> Iterator[str]:
    """Create an empty database on a server, give its URL, drop it at the end."""
    name = f"test_{uuid.uuid4().hex}"
    with closing(psycopg.connect(server_url, autocommit=True)) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield server_url.rpartition("/")[0] + f"/{name}"
        connection.execute(
            sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
        )


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    """Return the URL of an empty database of this test's own."""
    with new_database(postgres_url) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> SecretStr | None:
    """Return each database's setting in turn: a SQLite file, then PostgreSQL."""
    if request.param == "sqlite":
        return None
    return SecretStr(request.getfixturevalue("postgres_database"))


@pytest.fixture
def settings(tmp_path: Path, database_url: SecretStr | None) -> Settings:
    """Return settings on a migrated database, on SQLite and on PostgreSQL."""
    made = Settings(data_directory=tmp_path / "data", database_url=database_url)
    upgrade(made)
    return made


@pytest.fixture
def sessions(settings: Settings) -> Iterator[Sessions]:
    """Return the session factory of `settings`."""
    factory = make_sessions(settings)
    yield factory
    engine = factory.kw["bind"]
    assert isinstance(engine, Engine)
    engine.dispose()


@pytest.fixture
def session(sessions: Sessions) -> Iterator[Session]:
    """Return an open session, rolled back at the end."""
    with sessions() as opened:
        yield opened


@pytest.fixture
def store(settings: Settings) -> LocalStore:
    """Return the artifact store of `settings`."""
    return LocalStore(settings.artifacts_directory)


def free_port() -> int:
    """Return a TCP port on which nothing listens now."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _run(command: Sequence[str | Path], user: str | None) -> None:
    done = subprocess.run(
        command,
        user=user,
        cwd="/",
        check=False,
        # Not to a pipe: the server would inherit it and never close it.
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert done.returncode == 0, command


def _await_redis(url: str, process: subprocess.Popen[bytes]) -> None:
    with closing(redis.Redis.from_url(url)) as client:
        while True:
            assert process.poll() is None, "redis-server did not start"
            try:
                client.ping()
            except redis.ConnectionError:
                continue
            return

"""Sessions on the ledger's database: SQLite or PostgreSQL, by URL."""

import sqlite3
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.orm import Session, sessionmaker

from jobs.settings import Settings

BUSY_TIMEOUT_MS: Final = 30_000


def make_engine(settings: Settings) -> Engine:
    """Return an engine; a SQLite file's folder is created if it is missing."""
    url = make_url(settings.database)
    if url.get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True)
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_immediate)
    return engine


def make_sessions(settings: Settings) -> sessionmaker[Session]:
    """Return the factory of sessions; use it as ``with sessions.begin() as session``.

    Objects stay readable after the session closes.
    """
    return sessionmaker(make_engine(settings), expire_on_commit=False)


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:  # noqa: ANN401 - SQLAlchemy's event signature
    # The driver would begin transactions by itself, and always DEFERRED.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_immediate(connection: Connection) -> None:
    # A DEFERRED transaction that reads and then writes fails at once with SQLITE_BUSY
    # when another has written in between; IMMEDIATE waits its turn instead. Our
    # transactions last milliseconds, so that readers wait too costs nothing.
    connection.exec_driver_sql("BEGIN IMMEDIATE")

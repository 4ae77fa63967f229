"""Bring a database to the newest schema: ``python -m migrations.upgrade``."""

import logging
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from jobs.database import make_engine
from jobs.settings import Settings

# Any number that other users of the same database are unlikely to pick.
ADVISORY_LOCK: Final = 0x7C_A9_0001
# A migration that cannot get its lock gives up instead of stopping all traffic.
LOCK_TIMEOUT: Final = "10s"

_logger = logging.getLogger(__name__)


def upgrade(settings: Settings) -> None:
    """Run every migration that the database has not seen; safe to repeat and to race.

    Raises:
        sqlalchemy.exc.OperationalError: the database does not answer.
    """
    engine = make_engine(settings)
    try:
        with engine.begin() as connection:
            _take_turn(connection)
            command.upgrade(config(connection), "head")
    finally:
        engine.dispose()


def downgrade(settings: Settings, revision: str = "base") -> None:
    """Undo every migration after `revision`; data in dropped tables is lost."""
    engine = make_engine(settings)
    try:
        with engine.begin() as connection:
            _take_turn(connection)
            command.downgrade(config(connection), revision)
    finally:
        engine.dispose()


def config(connection: Connection) -> Config:
    """Return alembic's configuration for an open transaction."""
    configuration = Config()
    configuration.set_main_option(
        # ConfigParser reads % as the start of a reference.
        "script_location",
        str(Path(__file__).parent).replace("%", "%%"),
    )
    configuration.set_main_option(
        "file_template",
        "%%(year)d-%%(month).2d-%%(day).2d-%%(hour).2d%%(minute).2d_%%(slug)s",
    )
    configuration.attributes["connection"] = connection
    return configuration


def _take_turn(connection: Connection) -> None:
    # Several processes may start at once. On SQLite, BEGIN IMMEDIATE is the queue.
    if connection.dialect.name != "postgresql":
        return
    connection.execute(
        text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK}
    )
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))


def main() -> None:
    """Upgrade the database that the environment names."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    upgrade(Settings())
    _logger.info("The database has the newest schema.")


if __name__ == "__main__":
    main()

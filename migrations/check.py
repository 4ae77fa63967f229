"""Compare the migrations with the models: ``python -m migrations.check``.

A scratch SQLite database is upgraded and compared; on drift the differences are
printed and the exit status is 1.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import MetaData

from jobs.database import make_engine
from jobs.models import Base
from jobs.settings import Settings
from migrations.upgrade import upgrade


def differences(settings: Settings, metadata: MetaData) -> list[str]:
    """Return what alembic would still change in the database; empty: in step."""
    engine = make_engine(settings)
    try:
        with engine.begin() as connection:
            context = MigrationContext.configure(
                connection, opts={"compare_type": True}
            )
            return [str(change) for change in compare_metadata(context, metadata)]
    finally:
        engine.dispose()


def main() -> int:
    """Return 0 if the migrations are in step with the models, 1 on drift."""
    with TemporaryDirectory() as folder:
        settings = Settings(data_directory=Path(folder), database_url=None)
        upgrade(settings)
        drift = differences(settings, Base.metadata)
    for change in drift:
        sys.stdout.write(f"{change}\n")
    sys.stdout.write(
        "The models have changed without a migration.\n"
        if drift
        else "The migrations are in step with the models.\n"
    )
    return 1 if drift else 0


if __name__ == "__main__":
    sys.exit(main())

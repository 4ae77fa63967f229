"""Alembic's entry: it runs on the connection that `migrations.upgrade` hands over."""

from alembic import context
from sqlalchemy import Connection

from jobs.models import Base


def run(connection: Connection) -> None:
    """Run the migrations inside the transaction that the caller has begun."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        # SQLite alters a table by copying it.
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
    )
    context.run_migrations()


run(context.config.attributes["connection"])

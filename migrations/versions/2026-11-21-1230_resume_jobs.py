"""Record where an attempt resumed."""  # noqa: N999 - files sort by date

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "2611211230"
down_revision: str | None = "2611210900"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("resumed_from", sa.Text))
    # Rows that are there were never resumed; a constant default locks no table.
    op.add_column(
        "jobs",
        sa.Column(
            "resumed_fraction", sa.Double, nullable=False, server_default=sa.text("0")
        ),
    )


def downgrade() -> None:
    op.drop_column("jobs", "resumed_fraction")
    op.drop_column("jobs", "resumed_from")

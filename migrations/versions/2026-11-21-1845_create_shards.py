"""Create shards and their sets; let jobs evaluate and sweep."""  # noqa: N999 - files sort by date

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "2611211845"
down_revision: str | None = "2611211230"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

TIMESTAMP = sa.DateTime(timezone=True)
JSON = sa.JSON(none_as_null=True)
KINDS = "kind IN ('quantize', 'sample', 'evaluate', 'sweep')"
KINDS_BEFORE = "kind IN ('quantize', 'sample')"


def upgrade() -> None:
    _allow_kinds(KINDS)
    # A listing of every kind of job is read in this order.
    op.create_index("ix_jobs_created_at_id", "jobs", ["created_at", "id"])
    op.create_table(
        "shard_sets",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("request", JSON, nullable=False),
        sa.Column("num_shards", sa.Integer, nullable=False),
        sa.Column("created_at", TIMESTAMP, nullable=False),
        sa.Column("used_at", TIMESTAMP, nullable=False),
        sa.CheckConstraint("length(digest) = 64", name=op.f("ck_shard_sets_digest")),
        sa.CheckConstraint("num_shards >= 1", name=op.f("ck_shard_sets_num_shards")),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_shard_sets")),
    )
    _create_shards()
    op.create_table(
        "job_shard_sets",
        sa.Column("job_id", sa.Uuid, nullable=False),
        sa.Column("set_digest", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["jobs.id"],
            name=op.f("fk_job_shard_sets_job_id_jobs"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["set_digest"],
            ["shard_sets.digest"],
            name=op.f("fk_job_shard_sets_set_digest_shard_sets"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", "set_digest", name=op.f("pk_job_shard_sets")),
    )
    op.create_index("ix_job_shard_sets_set_digest", "job_shard_sets", ["set_digest"])


def downgrade() -> None:
    op.drop_table("job_shard_sets")
    op.drop_table("shards")
    op.drop_table("shard_sets")
    op.drop_index("ix_jobs_created_at_id", "jobs")
    # The schema before has no word for them.
    op.execute("DELETE FROM jobs WHERE kind IN ('evaluate', 'sweep')")
    _allow_kinds(KINDS_BEFORE)


def _create_shards() -> None:
    op.create_table(
        "shards",
        sa.Column("set_digest", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("lease_owner", sa.String(255)),
        sa.Column("failed_by", sa.String(255)),
        sa.Column("lease_token", sa.BigInteger, nullable=False),
        sa.Column("heartbeat_at", TIMESTAMP),
        sa.Column("started_at", TIMESTAMP),
        sa.Column("finished_at", TIMESTAMP),
        sa.Column("sha256", sa.String(64)),
        sa.Column("size_bytes", sa.BigInteger),
        sa.Column("images_sha256", sa.String(64)),
        sa.Column("images_bytes", sa.BigInteger),
        sa.Column("seconds", sa.Double),
        sa.CheckConstraint("number >= 0", name=op.f("ck_shards_number")),
        sa.CheckConstraint("attempt >= 0", name=op.f("ck_shards_attempt")),
        sa.ForeignKeyConstraint(
            ["set_digest"],
            ["shard_sets.digest"],
            name=op.f("fk_shards_set_digest_shard_sets"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("set_digest", "number", name=op.f("pk_shards")),
    )
    op.create_index("ix_shards_sha256", "shards", ["sha256"])
    op.create_index("ix_shards_images_sha256", "shards", ["images_sha256"])


def _allow_kinds(kinds: str) -> None:
    name = op.f("ck_jobs_kind")
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint(name, "jobs", type_="check")
        op.create_check_constraint(name, "jobs", kinds)
        return
    # SQLite changes a constraint by copying the table and dropping the old one. That
    # deletes its rows, and with them all that refers to them: foreign keys cannot be
    # switched off inside a transaction.
    op.execute("CREATE TEMPORARY TABLE kept AS SELECT * FROM job_artifacts")
    with op.batch_alter_table("jobs", recreate="always") as jobs:
        jobs.drop_constraint(name, type_="check")
        jobs.create_check_constraint(name, kinds)
    op.execute("INSERT INTO job_artifacts SELECT * FROM kept")
    op.execute("DROP TABLE kept")

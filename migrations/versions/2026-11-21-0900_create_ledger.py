"""Create jobs, artifacts and what links them."""  # noqa: N999 - files sort by date

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.schema import SchemaItem

revision: str = "2611210900"
down_revision: str | None = None
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

TIMESTAMP = sa.DateTime(timezone=True)
JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    op.create_table("jobs", *_columns_of_jobs())
    op.create_index("ix_jobs_kind_created_at_id", "jobs", ["kind", "created_at", "id"])
    op.create_index("ix_jobs_status_heartbeat_at", "jobs", ["status", "heartbeat_at"])
    op.create_table(
        "artifacts",
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("media_type", sa.String(127), nullable=False),
        sa.Column("created_at", TIMESTAMP, nullable=False),
        sa.CheckConstraint("length(sha256) = 64", name=op.f("ck_artifacts_sha256")),
        sa.CheckConstraint("size_bytes >= 0", name=op.f("ck_artifacts_size_bytes")),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_artifacts")),
    )
    op.create_table(
        "job_artifacts",
        sa.Column("job_id", sa.Uuid, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["jobs.id"],
            name=op.f("fk_job_artifacts_job_id_jobs"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["sha256"],
            ["artifacts.sha256"],
            name=op.f("fk_job_artifacts_sha256_artifacts"),
        ),
        sa.PrimaryKeyConstraint("job_id", "name", name=op.f("pk_job_artifacts")),
    )
    op.create_index("ix_job_artifacts_sha256", "job_artifacts", ["sha256"])


def downgrade() -> None:
    op.drop_table("job_artifacts")
    op.drop_table("artifacts")
    op.drop_table("jobs")


def _columns_of_jobs() -> list[SchemaItem]:
    return [
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("request", JSON, nullable=False),
        sa.Column("model", sa.String(512), nullable=False),
        sa.Column("recipe", JSON),
        sa.Column("recipe_digest", sa.String(71)),
        sa.Column("labels", JSON, nullable=False),
        *_columns_of_work(),
        *_columns_of_outcome(),
        sa.CheckConstraint("attempt >= 0", name=op.f("ck_jobs_attempt")),
        sa.CheckConstraint(
            "fraction >= 0 AND fraction <= 1", name=op.f("ck_jobs_fraction")
        ),
        sa.CheckConstraint("kind IN ('quantize', 'sample')", name=op.f("ck_jobs_kind")),
        sa.CheckConstraint(
            "status IN ('queued', 'running', 'cancelling', 'succeeded', 'failed', "
            "'cancelled')",
            name=op.f("ck_jobs_status"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    ]


def _columns_of_work() -> list[SchemaItem]:
    return [
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("lease_owner", sa.String(255)),
        sa.Column("lease_token", sa.BigInteger, nullable=False),
        sa.Column("heartbeat_at", TIMESTAMP),
        sa.Column("stage", sa.String(64)),
        sa.Column("stage_index", sa.Integer, nullable=False),
        sa.Column("stage_count", sa.Integer, nullable=False),
        sa.Column("done", sa.BigInteger, nullable=False),
        sa.Column("total", sa.BigInteger, nullable=False),
        sa.Column("unit", sa.String(32)),
        sa.Column("fraction", sa.Double, nullable=False),
        sa.Column("steps", JSON, nullable=False),
    ]


def _columns_of_outcome() -> list[SchemaItem]:
    return [
        sa.Column("environment", JSON),
        sa.Column("model_info", JSON),
        sa.Column("result", JSON),
        sa.Column("error", JSON),
        sa.Column("warnings", JSON, nullable=False),
        sa.Column("created_at", TIMESTAMP, nullable=False),
        sa.Column("updated_at", TIMESTAMP, nullable=False),
        sa.Column("queued_at", TIMESTAMP, nullable=False),
        sa.Column("rung_at", TIMESTAMP, nullable=False),
        sa.Column("started_at", TIMESTAMP),
        sa.Column("finished_at", TIMESTAMP),
        sa.Column("cancel_requested_at", TIMESTAMP),
        sa.Column("version", sa.BigInteger, nullable=False),
    ]

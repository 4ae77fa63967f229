"""The ledger's tables: jobs, what they made, and the shards of their evaluations."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Enum,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    TypeDecorator,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from jobs.status import JobStatus

# Named constraints: a migration on SQLite or PostgreSQL can then alter each of them.
NAMING: Final = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

Json = dict[str, Any]


class JobKind(StrEnum):
    """What a job does; also the name of the queue it is rung on."""

    QUANTIZE = "quantize"
    SAMPLE = "sample"
    EVALUATE = "evaluate"
    SWEEP = "sweep"


class UtcDateTime(TypeDecorator[datetime]):
    """A timestamp that is timezone-aware UTC in Python on every database."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(
        self, value: datetime | None, dialect: Dialect
    ) -> datetime | None:
        """Convert to UTC; SQLite keeps no zone, so it is dropped there."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a timestamp in the ledger must have a timezone")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(
        self, value: datetime | None, dialect: Dialect
    ) -> datetime | None:
        """Return the instant in UTC."""
        if value is None:
            return None
        return (
            value.replace(tzinfo=UTC)
            if dialect.name == "sqlite"
            else value.astimezone(UTC)
        )


def _named(kind: type[StrEnum], name: str) -> Enum:
    # A VARCHAR with a CHECK: a native enum cannot drop a value in a later release.
    return Enum(
        kind,
        name=name,
        native_enum=False,
        create_constraint=True,
        length=16,
        values_callable=lambda members: [member.value for member in members],
    )


class Base(DeclarativeBase):
    """Declarative base with named constraints."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        datetime: UtcDateTime(),
        Json: JSON(none_as_null=True),
        list[Json]: JSON(),
        dict[str, str]: JSON(),
    }


class Job(Base):
    """One job: the request, who works on it, how far it is, and how it ended."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("attempt >= 0", name="attempt"),
        CheckConstraint("fraction >= 0 AND fraction <= 1", name="fraction"),
        Index(None, "kind", "created_at", "id"),
        Index(None, "created_at", "id"),
        Index(None, "status", "heartbeat_at"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[JobKind] = mapped_column(_named(JobKind, "kind"))
    status: Mapped[JobStatus] = mapped_column(_named(JobStatus, "status"))
    request: Mapped[Json]
    """The accepted body with every default written back."""
    model: Mapped[str] = mapped_column(String(512))
    recipe: Mapped[Json | None]
    recipe_digest: Mapped[str | None] = mapped_column(String(71))
    labels: Mapped[dict[str, str]]

    attempt: Mapped[int] = mapped_column(default=0)
    max_attempts: Mapped[int]
    lease_owner: Mapped[str | None] = mapped_column(String(255))
    lease_token: Mapped[int] = mapped_column(BigInteger, default=0)
    """Grows at every claim; a worker with an older one has lost the job."""
    heartbeat_at: Mapped[datetime | None]
    resumed_from: Mapped[str | None] = mapped_column(Text)
    """The last entry of an earlier attempt's journal that this attempt went on from."""
    resumed_fraction: Mapped[float] = mapped_column(default=0.0)
    """Share of the whole job that this attempt found done."""

    stage: Mapped[str | None] = mapped_column(String(64))
    stage_index: Mapped[int] = mapped_column(default=0)
    stage_count: Mapped[int] = mapped_column(default=0)
    done: Mapped[int] = mapped_column(BigInteger, default=0)
    total: Mapped[int] = mapped_column(BigInteger, default=0)
    unit: Mapped[str | None] = mapped_column(String(32))
    fraction: Mapped[float] = mapped_column(default=0.0)
    """Share of the whole job that is done, 0 to 1."""
    steps: Mapped[list[Json]] = mapped_column(default=list)
    """``{name, status, started_at, finished_at}`` of every stage begun."""

    environment: Mapped[Json | None]
    model_info: Mapped[Json | None]
    """``{reference, revision, weights_sha256, num_parameters}``."""
    result: Mapped[Json | None]
    error: Mapped[Json | None]
    """``{code, title, detail, hint, retryable}`` of a failed job."""
    warnings: Mapped[list[Json]] = mapped_column(default=list)

    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    queued_at: Mapped[datetime]
    """When it last entered the queue."""
    rung_at: Mapped[datetime]
    """When its doorbell was last rung."""
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(BigInteger, default=1)
    """Grows at every change of the row; the ETag of GET /jobs/{id}."""


class Artifact(Base):
    """An immutable file in the store, named by the SHA-256 of its bytes."""

    __tablename__ = "artifacts"
    __table_args__ = (
        CheckConstraint("length(sha256) = 64", name="sha256"),
        CheckConstraint("size_bytes >= 0", name="size_bytes"),
    )

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    media_type: Mapped[str] = mapped_column(String(127))
    created_at: Mapped[datetime]


class JobArtifact(Base):
    """What a job made: ``checkpoint``, ``grid``, ``image/0``, ``baseline/0``."""

    __tablename__ = "job_artifacts"

    job_id: Mapped[UUID] = mapped_column(
        ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True
    )
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    sha256: Mapped[str] = mapped_column(ForeignKey("artifacts.sha256"), index=True)


class ShardSet(Base):
    """Work in claimable pieces, named by a digest of all that decides their bytes."""

    __tablename__ = "shard_sets"
    __table_args__ = (
        CheckConstraint("length(digest) = 64", name="digest"),
        CheckConstraint("num_shards >= 1", name="num_shards"),
    )

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    request: Mapped[Json]
    """What a worker has to know to make any of the shards."""
    num_shards: Mapped[int]
    created_at: Mapped[datetime]
    used_at: Mapped[datetime]
    """When a job last opened it or one of its shards was finished."""


class Shard(Base):
    """One piece of a set: who works on it, and the files that came of it."""

    __tablename__ = "shards"
    __table_args__ = (
        CheckConstraint("number >= 0", name="number"),
        CheckConstraint("attempt >= 0", name="attempt"),
        # Asked before a file is deleted: does another shard name it?
        Index(None, "sha256"),
        Index(None, "images_sha256"),
    )

    set_digest: Mapped[str] = mapped_column(
        ForeignKey("shard_sets.digest", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    attempt: Mapped[int] = mapped_column(default=0)
    lease_owner: Mapped[str | None] = mapped_column(String(255))
    """Who works on it; once it is done, who made it."""
    failed_by: Mapped[str | None] = mapped_column(String(255))
    """On whom it failed last."""
    lease_token: Mapped[int] = mapped_column(BigInteger, default=0)
    """Grows at every claim; a worker with an older one has lost the shard."""
    heartbeat_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    """When it was last claimed."""
    finished_at: Mapped[datetime | None]
    sha256: Mapped[str | None] = mapped_column(String(64))
    """The file with its features; null until it is done."""
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    images_sha256: Mapped[str | None] = mapped_column(String(64))
    """The tar with its images, where they are kept."""
    images_bytes: Mapped[int | None] = mapped_column(BigInteger)
    seconds: Mapped[float | None]
    """What making it took, as the worker measured it."""


class JobShardSet(Base):
    """Which jobs need a set: its shards are worked while one of them is active."""

    __tablename__ = "job_shard_sets"

    job_id: Mapped[UUID] = mapped_column(
        ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True
    )
    set_digest: Mapped[str] = mapped_column(
        ForeignKey("shard_sets.digest", ondelete="CASCADE"),
        primary_key=True,
        index=True,
    )

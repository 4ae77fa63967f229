"""The migration that brings shards: SQLite copies a table that others refer to."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from jobs import repository, shards
from jobs.artifacts import StoredArtifact
from jobs.database import make_engine
from jobs.models import Job, JobKind
from jobs.settings import Settings
from jobs.status import JobStatus
from migrations.upgrade import downgrade, upgrade
from tests.factories import NOON, make_job, make_running_job

BEFORE = "2611211230"
STORED = StoredArtifact(sha256="c" * 64, size_bytes=7, media_type="x/y")


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    made = make_engine(settings)
    yield made
    made.dispose()


def _rows(engine: Engine, table: str) -> list[tuple[object, ...]]:
    with engine.begin() as connection:
        found = connection.execute(sa.text(f"SELECT * FROM {table} ORDER BY 1, 2"))  # noqa: S608 - no input
        return [tuple(row) for row in found]


def test_jobs_and_what_they_made_outlive_it_there_and_back(
    settings: Settings, sessions: sessionmaker[Session], engine: Engine
) -> None:
    with sessions.begin() as session:
        for _ in range(3):
            _, lease = make_running_job(session)
            made = {"checkpoint": STORED, "grid": STORED}
            repository.finish(session, lease, result={}, artifacts=made, now=NOON)
        make_job(session, kind=JobKind.SAMPLE)
    tables = ("jobs", "artifacts", "job_artifacts")
    before = {table: _rows(engine, table) for table in tables}
    assert [len(rows) for rows in before.values()] == [4, 1, 6]
    downgrade(settings, BEFORE)
    assert {table: _rows(engine, table) for table in tables} == before
    upgrade(settings)
    assert {table: _rows(engine, table) for table in tables} == before
    # The reference still holds: with a job goes what it refers to.
    with engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM jobs"))
    assert _rows(engine, "job_artifacts") == []


def test_kinds_of_jobs_that_it_brings_go_with_it(
    settings: Settings, sessions: sessionmaker[Session], engine: Engine
) -> None:
    with sessions.begin() as session:
        kept = make_job(session)
        for kind in (JobKind.EVALUATE, JobKind.SWEEP):
            job = make_job(session, kind=kind)
            shards.open_set(
                session,
                job.id,
                digest="5" * 64,
                request={},
                num_shards=2,
                now=NOON,
            )
    downgrade(settings, BEFORE)
    names = sa.inspect(engine).get_table_names()
    assert not {"shard_sets", "shards", "job_shard_sets"} & set(names)
    upgrade(settings)
    with sessions() as session:
        assert session.scalars(sa.select(Job.id)).all() == [kept.id]
        assert repository.get(session, kept.id).status == JobStatus.QUEUED


def test_the_constraints_of_jobs_outlive_the_copy(
    settings: Settings, engine: Engine
) -> None:
    checks = {c["name"] for c in sa.inspect(engine).get_check_constraints("jobs")}
    indexes = {i["name"] for i in sa.inspect(engine).get_indexes("jobs")}
    downgrade(settings, BEFORE)
    found = sa.inspect(engine)
    assert {c["name"] for c in found.get_check_constraints("jobs")} == checks
    before = {i["name"] for i in found.get_indexes("jobs")}
    assert indexes - before == {"ix_jobs_created_at_id"}
    assert before < indexes
    evaluate = sa.text("UPDATE jobs SET kind = 'evaluate'")
    with Session(engine) as session:
        make_job(session)
        with pytest.raises(sa.exc.IntegrityError):
            session.execute(evaluate)


def test_a_folder_of_the_release_before_can_be_used(
    settings: Settings, database_url: SecretStr | None, engine: Engine
) -> None:
    downgrade(settings, BEFORE)
    with Session(engine) as session, session.begin():
        make_job(session)
    upgrade(settings)
    with Session(engine) as session, session.begin():
        make_job(session, kind=JobKind.SWEEP)
    assert len(_rows(engine, "jobs")) == 2

from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from jobs.database import make_engine
from jobs.ids import new_id
from jobs.models import JobArtifact
from jobs.settings import Settings
from tests.factories import make_job


def test_a_job_stays_readable_after_its_session(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as session:
        job = make_job(session, model="tiny")
    assert job.model == "tiny"


def test_foreign_keys_hold_on_both_databases(session: Session) -> None:
    session.add(JobArtifact(job_id=new_id(), name="checkpoint", sha256="0" * 64))
    with pytest.raises(IntegrityError):
        session.flush()


def test_sqlite_keeps_readers_and_writers_apart(tmp_path: Path) -> None:
    engine = make_engine(Settings(data_directory=tmp_path / "new" / "folder"))
    with engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"
        assert connection.execute(text("PRAGMA busy_timeout")).scalar_one() == 30_000
    engine.dispose()

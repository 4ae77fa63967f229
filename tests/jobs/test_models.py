from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import Session

from jobs.models import Job
from tests.factories import NOON, make_job

SYDNEY = timezone(timedelta(hours=11))


def test_an_instant_comes_back_in_utc_whatever_zone_it_was_given_in(
    session: Session,
) -> None:
    local = datetime(2026, 11, 21, 23, 0, 0, 123_456, tzinfo=SYDNEY)
    job = make_job(session, now=local)
    session.expire_all()
    assert job.created_at == local
    assert job.created_at.tzinfo == UTC
    assert job.started_at is None


def test_an_instant_without_zone_is_refused(session: Session) -> None:
    with pytest.raises(StatementError, match="must have a timezone"):
        make_job(session, now=NOON.replace(tzinfo=None))


def test_a_missing_json_value_is_null_in_sql(session: Session) -> None:
    job = make_job(session)
    assert session.query(Job).where(Job.result.is_(None)).one() is job

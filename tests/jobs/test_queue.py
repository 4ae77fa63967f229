import base64
import json
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis
from celery import Celery
from pydantic import SecretStr
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from jobs.errors import QueueUnavailable
from jobs.models import Job, JobKind
from jobs.queue import (
    QUEUES,
    SHARD_EXPIRES_SECONDS,
    SHARD_TASK,
    make_celery,
    ping,
    ring,
    ring_shards,
    waiting_calls,
)
from jobs.settings import Settings
from tests.conftest import free_port
from tests.factories import make_job, make_running_job

Read = Callable[[str], list[str]]
"""Return the job id in each message in a queue, in order, and remove it."""


@pytest.fixture
def celery(settings: Settings) -> Iterator[Celery]:
    app = make_celery(settings)
    yield app
    app.close()


@pytest.fixture
def rung(celery: Celery) -> Read:
    def read(queue: str) -> list[str]:
        found = []
        with celery.connection_for_read() as connection:
            channel = connection.default_channel
            while (message := channel.basic_get(queue, no_ack=True)) is not None:
                (job_id,), _, _ = json.loads(message.body)
                found.append(job_id)
        return found

    return read


def test_a_job_is_rung_after_commit_and_not_before(
    sessions: sessionmaker[Session], celery: Celery, rung: Read
) -> None:
    with sessions() as session:
        job = make_job(session)
        ring(session, job, celery)
        assert rung("quantize") == []
        session.commit()
    assert rung("quantize") == [str(job.id)]


def test_each_kind_has_its_own_queue(
    sessions: sessionmaker[Session], celery: Celery, rung: Read
) -> None:
    with sessions.begin() as session:
        jobs = [make_job(session, kind=kind) for kind in JobKind]
        for job in jobs:
            ring(session, job, celery)
    for job in jobs:
        assert rung(job.kind) == [str(job.id)]


def test_nothing_is_rung_on_rollback(
    sessions: sessionmaker[Session], celery: Celery, rung: Read
) -> None:
    with sessions() as session:
        ring(session, make_job(session), celery)
        session.rollback()
        later = make_job(session)
        session.commit()
        assert rung("quantize") == []
        ring(session, later, celery)
        session.commit()
    assert rung("quantize") == [str(later.id)]


def test_nothing_is_rung_when_the_transaction_fails(
    sessions: sessionmaker[Session], celery: Celery, rung: Read
) -> None:
    with sessions() as session:
        job = make_job(session)
        ring(session, job, celery)
        job.attempt = -1
        with pytest.raises(IntegrityError):
            session.commit()
    assert rung("quantize") == []


def test_a_savepoint_is_not_a_commit(
    sessions: sessionmaker[Session], celery: Celery, rung: Read
) -> None:
    with sessions() as session:
        job = make_job(session)
        ring(session, job, celery)
        with session.begin_nested():
            make_job(session)
        assert rung("quantize") == []
        session.commit()
    assert rung("quantize") == [str(job.id)]


def test_one_session_rings_each_time_it_commits(
    sessions: sessionmaker[Session], celery: Celery, rung: Read
) -> None:
    jobs: list[Job] = []
    with sessions() as session:
        for _ in range(2):
            jobs.append(make_job(session))
            ring(session, jobs[-1], celery)
            session.commit()
    assert rung("quantize") == [str(job.id) for job in jobs]


def test_a_message_holds_the_id_and_nothing_else_of_the_job(
    sessions: sessionmaker[Session], celery: Celery, settings: Settings
) -> None:
    with sessions.begin() as session:
        job, _ = make_running_job(session, owner="secret-owner")
        ring(session, job, celery)
    (path,) = (settings.broker_directory / "messages").glob("*.quantize.msg")
    message = json.loads(path.read_text())
    arguments, keywords, _ = json.loads(base64.b64decode(message["body"]))
    assert (arguments, keywords) == ([str(job.id)], {})
    assert "secret-owner" not in path.read_text()


def test_a_job_is_kept_when_the_broker_is_down(
    sessions: sessionmaker[Session], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    url = SecretStr(f"redis://:hunter2@127.0.0.1:{free_port()}/0")
    down = make_celery(Settings(data_directory=tmp_path, broker_url=url))
    with caplog.at_level(logging.WARNING), sessions.begin() as session:
        job = make_job(session)
        ring(session, job, down)
    with sessions() as session:
        assert session.get(Job, job.id) is not None
    assert str(job.id) in caplog.text
    assert "reaper will ring again" in caplog.text
    assert "hunter2" not in caplog.text
    down.close()


def test_a_job_is_kept_when_the_message_folder_is_gone(
    sessions: sessionmaker[Session],
    celery: Celery,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (settings.broker_directory / "messages").rmdir()
    with sessions.begin() as session:
        job = make_job(session)
        ring(session, job, celery)
    with sessions() as session:
        assert session.get(Job, job.id) is not None
    assert "reaper will ring again" in caplog.text


def test_a_broker_that_answers_is_told_from_one_that_does_not(
    celery: Celery, tmp_path: Path
) -> None:
    ping(celery)
    url = SecretStr(f"redis://127.0.0.1:{free_port()}/0")
    down = make_celery(Settings(data_directory=tmp_path, broker_url=url))
    with pytest.raises(QueueUnavailable):
        ping(down)
    assert waiting_calls(down) == 0
    down.close()


def test_help_is_called_for_as_often_as_asked_after_commit_and_not_before(
    sessions: sessionmaker[Session], celery: Celery, rung: Read
) -> None:
    with sessions() as session:
        ring_shards(session, "5" * 64, 3, celery)
        assert rung("shards") == []
        assert waiting_calls(celery) == 0
        session.commit()
        assert waiting_calls(celery) == 3
        assert rung("shards") == ["5" * 64] * 3
        ring_shards(session, "6" * 64, 2, celery)
        make_job(session)
        session.rollback()
        session.commit()
    assert rung("shards") == []


def test_a_call_for_help_expires(
    sessions: sessionmaker[Session], celery: Celery, settings: Settings
) -> None:
    before = datetime.now(UTC)
    with sessions.begin() as session:
        ring_shards(session, "5" * 64, 1, celery)
        ring(session, make_job(session), celery)
    messages = settings.broker_directory / "messages"
    (help_wanted,) = messages.glob("*.shards.msg")
    (job,) = messages.glob("*.quantize.msg")
    headers = json.loads(help_wanted.read_text())["headers"]
    assert headers["task"] == SHARD_TASK
    seconds = (datetime.fromisoformat(headers["expires"]) - before).total_seconds()
    assert seconds == pytest.approx(SHARD_EXPIRES_SECONDS, abs=60)
    # A job's doorbell is as good tomorrow.
    assert json.loads(job.read_text())["headers"]["expires"] is None


def test_nobody_is_hurt_where_the_broker_is_down_when_help_is_called_for(
    sessions: sessionmaker[Session], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    url = SecretStr(f"redis://:hunter2@127.0.0.1:{free_port()}/0")
    down = make_celery(Settings(data_directory=tmp_path, broker_url=url))
    with caplog.at_level(logging.WARNING), sessions.begin() as session:
        job = make_job(session)
        ring_shards(session, "5" * 64, 50, down)
    with sessions() as session:
        assert session.get(Job, job.id) is not None
    # The first that is refused answers for all of them.
    assert caplog.text.count("its job works them alone") == 1
    assert "hunter2" not in caplog.text
    down.close()


def test_redis_carries_the_same_message(
    sessions: sessionmaker[Session], redis_url: str, tmp_path: Path
) -> None:
    url = SecretStr(redis_url.removesuffix("/0") + "/1")
    app = make_celery(Settings(data_directory=tmp_path, broker_url=url))
    with redis.Redis.from_url(url.get_secret_value()) as server:
        server.flushdb()
        with sessions.begin() as session:
            job = make_job(session)
            ring(session, job, app)
        ping(app)
        (raw,) = server.lrange("quantize", 0, -1)
        arguments = json.loads(base64.b64decode(json.loads(raw)["body"]))[0]
        assert arguments == [str(job.id)]
        server.flushdb()
    app.close()


def test_the_broker_never_decides_who_works(settings: Settings) -> None:
    conf = make_celery(settings).conf
    assert not conf.task_acks_late
    assert conf.task_ignore_result
    assert conf.worker_prefetch_multiplier == conf.worker_concurrency == 1
    assert conf.accept_content == ["json"]
    assert {queue.name for queue in conf.task_queues} == set(QUEUES)


def test_reaping_is_scheduled_and_expires_before_the_next(settings: Settings) -> None:
    entry = make_celery(settings).conf.beat_schedule["reap"]
    assert entry["schedule"] == entry["options"]["expires"] == settings.reap_seconds
    assert entry["options"]["queue"] in QUEUES

"""A set of three shards, a job that needs it, and functions that make its shards."""

import threading
from collections.abc import Callable
from uuid import UUID

import pytest
from sqlalchemy import select

from jobs import repository, shards
from jobs.models import Json, Shard
from jobs.shards import Tally
from tcaq_core.errors import EvaluationFailed
from tcaq_core.fingerprint import environment_digest
from tests.factories import make_job
from worker.clock import utc_now
from worker.context import Context
from worker.shards import Made, Make, Tick, complete_set

SET = "5" * 64
# Far more than any of these waits takes; only a broken worker lets it pass.
PATIENCE_SECONDS = 60.0


def open_set(context: Context, num_shards: int = 3, **request: object) -> UUID:
    """Open the set for a job of its own; return the job."""
    own = {"seed": 7, "environment_digest": environment_digest(context.device)}
    with context.sessions.begin() as session:
        job = make_job(session, now=utc_now())
        shards.open_set(
            session,
            job.id,
            digest=SET,
            request=own | request,
            num_shards=num_shards,
            now=utc_now(),
        )
    return job.id


def cancel(context: Context, job_id: UUID) -> None:
    """Ask the job to stop."""
    with context.sessions.begin() as session:
        repository.request_cancel(session, job_id, now=utc_now())


def tally(context: Context) -> Tally:
    """Count the set's shards."""
    with context.sessions() as session:
        return shards.tally(session, SET)


def rows(context: Context) -> list[Shard]:
    """Return the shards by number."""
    with context.sessions() as session:
        return list(session.scalars(select(Shard).order_by(Shard.number)))


def stored_bytes(context: Context) -> list[bytes]:
    """Return the files of what is done, by number."""
    with context.sessions() as session:
        found = shards.results(session, SET)
    contents = []
    for result in found:
        with context.store.open(result.sha256) as file:
            contents.append(file.read())
    return contents


def doorbells(context: Context) -> int:
    """Return how many calls for help wait."""
    folder = context.settings.broker_directory / "messages"
    return len(list(folder.glob("*.shards.msg")))


def lose_doorbells(context: Context) -> None:
    """Delete the calls for help that wait."""
    folder = context.settings.broker_directory / "messages"
    for path in folder.glob("*.shards.msg"):
        path.unlink()


def wait_until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds; give up loudly after a long time."""
    tick = threading.Event()
    for _ in range(int(PATIENCE_SECONDS / 0.01)):
        if condition():
            return
        tick.wait(0.01)
    pytest.fail("it never happened")


def complete(context: Context, make: Make) -> tuple[int, ...]:
    """Complete the set; return its shards' numbers."""
    done = complete_set(SET, context, make, tick=lambda _done, _total: None)
    return tuple(result.number for result in done)


def make(request: Json, number: int, tick: Tick) -> Made:
    """Make a shard at once."""
    tick()
    return Made(f"{request['seed']}:{number}".encode(), None, number + 0.5)


def never(_request: Json, number: int, _tick: Tick) -> Made:
    """Fail the test."""
    pytest.fail(f"shard {number} is made, and should not be")


def until_stopped(_request: Json, _number: int, tick: Tick) -> Made:
    """Work until told to stop; give up loudly after a long time."""
    for _ in range(int(PATIENCE_SECONDS / 2 / 0.01)):
        tick()
        threading.Event().wait(0.01)
    raise AssertionError("nobody told it to stop")


def failing(_request: Json, number: int, _tick: Tick) -> Made:
    """Refuse, as the science does."""
    raise EvaluationFailed(f"shard {number} is NaN", hint="Another seed.")


def exiting(_request: Json, _number: int, _tick: Tick) -> Made:
    """Be told to exit."""
    raise SystemExit(0)

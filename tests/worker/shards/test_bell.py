import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from jobs import shards
from jobs.models import Json
from tests.worker.shards.stage import (
    PATIENCE_SECONDS,
    SET,
    doorbells,
    lose_doorbells,
    make,
    open_set,
    tally,
    wait_until,
)
from worker.clock import utc_now
from worker.context import Context
from worker.shards import Bell, Made, Tick, help_once


def test_help_is_called_for_again_ever_more_rarely_while_nobody_comes(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_set(context, 4)
    now = 0.0
    monkeypatch.setattr("worker.shards.monotonic", lambda: now)
    bell = Bell(SET, context)
    rung: list[int] = []
    for minute in range(65):
        now = minute * context.settings.requeue_after_seconds
        before = doorbells(context)
        with context.sessions.begin() as session:
            assert bell.ring_if_due(session).waiting == 4
        if new := doorbells(context) - before:
            assert new == 3
            rung.append(minute)
            # As if they were lost: what still waits is not rung for again.
            lose_doorbells(context)
    assert rung == [0, 1, 3, 7, 15, 30, 45, 60]


def test_a_call_that_nobody_has_heard_is_not_repeated(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_set(context, 4)
    now = 0.0
    monkeypatch.setattr("worker.shards.monotonic", lambda: now)
    bell = Bell(SET, context)
    for minute in range(65):
        now = minute * context.settings.requeue_after_seconds
        with context.sessions.begin() as session:
            bell.ring_if_due(session)
        assert doorbells(context) == 3


def _ring(context: Context) -> int:
    """Ring if it is due; return how many doorbells there are now."""
    with context.sessions.begin() as session:
        Bell(SET, context).ring_if_due(session)
    return doorbells(context)


def test_nobody_is_called_where_somebody_helps_or_one_shard_is_left(
    context: Context,
) -> None:
    open_set(context, 3)
    with ThreadPoolExecutor(1) as pool:
        may_end = threading.Event()

        def slow(request: Json, number: int, tick: Tick) -> Made:
            assert may_end.wait(PATIENCE_SECONDS)
            return make(request, number, tick)

        helping = pool.submit(help_once, SET, context, slow)
        wait_until(lambda: tally(context).held == 1)
        assert _ring(context) == 0
        may_end.set()
        assert helping.result(PATIENCE_SECONDS)
    assert _ring(context) == 1
    assert help_once(SET, context, make)
    assert tally(context).waiting == 1
    assert _ring(context) == 1


def test_a_helper_that_died_does_not_count_as_help(context: Context) -> None:
    open_set(context, 3)
    long_ago = utc_now() - timedelta(days=1)
    with context.sessions.begin() as session:
        dead = shards.claim_shard(
            session, SET, owner="dead:1", now=long_ago, stale_before=long_ago
        )
    assert dead is not None
    assert _ring(context) == 2

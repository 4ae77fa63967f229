import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from jobs.shards import Tally
from tcaq_core.errors import EvaluationFailed
from tests.worker.shards.stage import (
    PATIENCE_SECONDS,
    SET,
    cancel,
    complete,
    doorbells,
    failing,
    make,
    never,
    open_set,
    rows,
    tally,
    until_stopped,
    wait_until,
)
from worker.context import Context
from worker.shards import PASS_ON_SECONDS, help_once


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.shards.sleep", lambda _seconds: None)


@pytest.mark.parametrize("why", ["unknown", "cancelled", "nothing left"])
def test_a_helper_returns_at_once_where_there_is_nothing_to_help_with(
    context: Context, why: str
) -> None:
    if why != "unknown":
        job_id = open_set(context, 1)
        if why == "cancelled":
            cancel(context, job_id)
        else:
            complete(context, make)
    assert not help_once(SET, context, never)


def test_a_helper_whose_bits_would_differ_says_why_and_leaves_it(
    context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    open_set(context, environment_digest="0" * 64)
    with caplog.at_level(logging.INFO):
        assert not help_once(SET, context, never)
    assert "would give other bits" in caplog.text
    # Others may be able to.
    assert doorbells(context) == 1
    assert tally(context) == Tally(3, done=0, held=0, waiting=3)


def test_a_request_that_names_no_environment_gets_no_help(context: Context) -> None:
    open_set(context, environment_digest=None)
    assert not help_once(SET, context, never)


def test_helpers_try_a_shard_twice_and_its_job_says_what_is_wrong(
    context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    open_set(context, 1)
    for helper in ("a:1", "b:1"):
        assert not help_once(SET, replace(context, owner=helper), failing)
    assert "shard 0 is NaN" in caplog.text
    assert not help_once(SET, context, never)
    assert tally(context).waiting == 1
    with pytest.raises(EvaluationFailed, match="shard 0 is NaN"):
        complete(context, failing)
    (row,) = rows(context)
    assert (row.attempt, row.lease_owner) == (3, None)
    # Where the job can do what the helpers could not, nothing is lost.
    assert complete(context, make) == (0,)


def test_cancelling_the_job_stops_its_helpers(context: Context) -> None:
    job_id = open_set(context, 1)
    with ThreadPoolExecutor(1) as pool:
        helping = pool.submit(help_once, SET, context, until_stopped)
        wait_until(lambda: tally(context).held == 1)
        cancel(context, job_id)
        assert not helping.result(PATIENCE_SECONDS)
    (row,) = rows(context)
    assert (row.attempt, row.lease_owner, row.sha256) == (0, None, None)


def test_a_helper_goes_on_while_another_job_wants_the_set(context: Context) -> None:
    first, second = open_set(context, 1), open_set(context, 1)
    with ThreadPoolExecutor(1) as pool:
        helping = pool.submit(help_once, SET, context, until_stopped)
        wait_until(lambda: tally(context).held == 1)
        cancel(context, first)
        beat = rows(context)[0].heartbeat_at
        wait_until(lambda: rows(context)[0].heartbeat_at != beat)
        threading.Event().wait(0.3)
        assert not helping.done()
        cancel(context, second)
        assert not helping.result(PATIENCE_SECONDS)


def test_a_helper_on_which_a_shard_failed_leaves_the_others_to_others(
    context: Context,
) -> None:
    open_set(context, 4)
    ill = replace(context, owner="ill:1")
    assert not help_once(SET, ill, failing)
    for calls in (1, 2):
        assert not help_once(SET, ill, never)
        assert doorbells(context) == calls
    # It has spoilt one shard of the four, and for the others once.
    assert [row.attempt for row in rows(context)] == [1, 0, 0, 0]
    while help_once(SET, context, make):
        pass
    assert tally(context).done == 4
    assert not help_once(SET, ill, never)
    assert doorbells(context) == 2


def test_who_cannot_help_gives_others_the_time_to_hear_the_call(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_set(context, environment_digest="0" * 64)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        # By now the others can have it.
        assert doorbells(context) == 1
        slept.append(seconds)

    monkeypatch.setattr("worker.shards.sleep", sleep)
    assert not help_once(SET, context, never)
    assert slept == [PASS_ON_SECONDS]

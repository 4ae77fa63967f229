import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from jobs.models import Json
from jobs.shards import Tally
from tcaq_core.errors import Interrupted
from tests.worker.shards.stage import (
    PATIENCE_SECONDS,
    SET,
    complete,
    doorbells,
    make,
    never,
    open_set,
    rows,
    stored_bytes,
    tally,
    until_stopped,
)
from worker.context import Context
from worker.shards import Made, Tick, complete_set, help_once


def test_a_job_alone_makes_all_of_its_set_in_order(context: Context) -> None:
    open_set(context)
    seen: list[tuple[int, int]] = []
    done = complete_set(SET, context, make, tick=lambda *at: seen.append(at))
    assert [(item.number, item.seconds) for item in done] == [
        (0, 0.5),
        (1, 1.5),
        (2, 2.5),
    ]
    assert stored_bytes(context) == [b"7:0", b"7:1", b"7:2"]
    assert sorted(set(seen)) == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert seen == sorted(seen)
    # One it begins itself; for each other it has called for help.
    assert doorbells(context) == 2
    assert {row.attempt for row in rows(context)} == {1}


def test_what_is_done_is_not_done_again_by_a_job_that_shares_the_set(
    context: Context,
) -> None:
    for _ in range(2):
        open_set(context)
        assert help_once(SET, context, make)
    assert tally(context).done == 2
    made: list[int] = []

    def noted(request: Json, number: int, tick: Tick) -> Made:
        made.append(number)
        return make(request, number, tick)

    assert complete(context, noted) == (0, 1, 2)
    assert made == [2]
    open_set(context)
    assert complete(context, never) == (0, 1, 2)


def test_a_set_that_was_not_opened_cannot_be_completed(context: Context) -> None:
    with pytest.raises(ValueError, match="open it first"):
        complete(context, make)


def test_many_workers_make_each_shard_once_and_the_same(any_context: Context) -> None:
    open_set(any_context, 24)
    made: list[int] = []

    def noted(request: Json, number: int, tick: Tick) -> Made:
        made.append(number)
        return make(request, number, tick)

    def help_out(worker: int) -> None:
        own = replace(any_context, owner=f"helper:{worker}")
        while help_once(SET, own, noted):
            pass

    with ThreadPoolExecutor(4) as pool:
        helping = [pool.submit(help_out, worker) for worker in range(3)]
        assert complete(any_context, noted) == tuple(range(24))
        for item in helping:
            item.result()
    assert sorted(made) == list(range(24))
    assert stored_bytes(any_context) == [f"7:{number}".encode() for number in range(24)]
    assert {row.attempt for row in rows(any_context)} == {1}


def test_a_job_waits_for_what_others_have_begun(context: Context) -> None:
    open_set(context, 2)
    has_begun, may_end = threading.Event(), threading.Event()
    looks: list[int] = []

    def slow(request: Json, number: int, tick: Tick) -> Made:
        has_begun.set()
        assert may_end.wait(PATIENCE_SECONDS)
        return make(request, number, tick)

    def tick(done: int, _total: int) -> None:
        looks.append(done)
        if looks.count(1) > 3:
            may_end.set()

    other = replace(context, owner="other:1")
    with ThreadPoolExecutor(1) as pool:
        helping = pool.submit(help_once, SET, other, slow)
        assert has_begun.wait(PATIENCE_SECONDS)
        done = complete_set(SET, context, make, tick=tick)
        assert helping.result()
    assert len(done) == 2
    owners = {row.number: row.lease_owner for row in rows(context)}
    assert owners == {0: "other:1", 1: context.owner}


def test_a_job_that_is_told_to_stop_leaves_its_shard_to_the_next(
    context: Context,
) -> None:
    open_set(context, 2)

    def tick(done: int, _total: int) -> None:
        if done == 1:
            raise Interrupted("The job stops.", hint="Nothing is left to do.")

    with pytest.raises(Interrupted):
        complete_set(SET, context, make, tick=tick)
    assert tally(context) == Tally(2, done=1, held=0, waiting=1)
    # Also in the middle of a shard.
    seen: list[int] = []

    def later(done: int, _total: int) -> None:
        seen.append(done)
        if len(seen) > 3:
            raise Interrupted("The job stops.", hint="Nothing is left to do.")

    with pytest.raises(Interrupted):
        complete_set(SET, context, until_stopped, tick=later)
    assert [row.attempt for row in rows(context)] == [1, 0]


def test_a_shard_whose_file_is_lost_or_cut_short_is_made_anew(context: Context) -> None:
    open_set(context)
    complete(context, make)
    intact = stored_bytes(context)
    found = [context.store.path(row.sha256 or "") for row in rows(context)]
    gone, short = found[:2]
    assert gone is not None
    assert short is not None
    gone.unlink()
    short.write_bytes(b"7")
    made: list[int] = []

    def noted(request: Json, number: int, tick: Tick) -> Made:
        made.append(number)
        return make(request, number, tick)

    assert complete(context, noted) == (0, 1, 2)
    assert sorted(made) == [0, 1]
    assert stored_bytes(context) == intact

"""A worker dies or sleeps too long; another takes its shard and makes the same."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from jobs import shards
from jobs.models import Json
from tests.e2e.deployment import environment_of, is_alive
from tests.worker.shards.helper_process import make as make_slowly
from tests.worker.shards.stage import (
    PATIENCE_SECONDS,
    SET,
    complete,
    make,
    open_set,
    rows,
    stored_bytes,
    tally,
    until_stopped,
    wait_until,
)
from worker.clock import utc_now
from worker.context import Context
from worker.shards import Made, Make, Tick, help_once

ROOT = Path(__file__).resolve().parents[3]
HELPER = Path(__file__).with_name("helper_process.py")


def _take_over(context: Context) -> None:
    with context.sessions.begin() as session:
        later = utc_now() + timedelta(days=1)
        taken = shards.claim_shard(
            session, SET, owner="heir:1", now=later, stale_before=later
        )
    assert taken is not None


def test_a_helper_that_lost_its_shard_leaves_it_to_the_next(context: Context) -> None:
    open_set(context, 1)
    with ThreadPoolExecutor(1) as pool:
        helping = pool.submit(help_once, SET, context, until_stopped)
        wait_until(lambda: tally(context).held == 1)
        _take_over(context)
        assert not helping.result(PATIENCE_SECONDS)
    (row,) = rows(context)
    assert (row.lease_owner, row.attempt, row.sha256) == ("heir:1", 2, None)


@pytest.mark.parametrize("work", [make, until_stopped], ids=["late", "in time"])
def test_a_job_that_lost_a_shard_goes_on_with_what_the_heir_makes(
    context: Context, work: Make
) -> None:
    open_set(context, 1)

    def overslept(request: Json, number: int, tick: Tick) -> Made:
        with context.sessions.begin() as session:
            later = utc_now() + timedelta(days=1)
            heir = shards.claim_shard(
                session, SET, owner="heir:1", now=later, stale_before=later
            )
            assert heir is not None
            stored = context.store.put_bytes(b"the heir's", media_type="x/y")
            shards.finish_shard(
                session, heir, stored=stored, images=None, seconds=9.0, now=later
            )
        return work(request, number, tick)

    assert complete(context, overslept) == (0,)
    assert stored_bytes(context) == [b"the heir's"]


@contextmanager
def _helper(context: Context, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run a helper in a process of its own, killed at the end."""
    with subprocess.Popen(
        [sys.executable, HELPER, SET, *options],
        cwd=ROOT,
        env=environment_of(context.settings),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _began(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    line = process.stdout.readline()
    while line and not line.startswith("began "):
        line = process.stdout.readline()
    assert line, "the helper ended and had begun nothing"
    return int(line.split()[1])


def test_a_shard_survives_kill_9_of_its_worker_and_comes_out_the_same(
    any_context: Context,
) -> None:
    context = any_context
    open_set(context, 8, seconds=0.2)
    with _helper(context, "forever") as victim:
        killed = _began(victim)
        victim.kill()
        victim.wait()
        assert not is_alive(victim.pid)
    held = rows(context)[killed]
    assert f"{held.lease_owner}".endswith(f":{victim.pid}")
    with _helper(context) as survivor:
        _began(survivor)
        assert complete(context, make_slowly) == tuple(range(8))
    made = rows(context)
    assert made[killed].attempt == 2
    assert made[killed].lease_owner != held.lease_owner
    makers = {f"{row.lease_owner}".rpartition(":")[2] for row in made}
    assert f"{survivor.pid}" in makers
    alone = [f"7:{number}".encode() * 100 for number in range(8)]
    assert stored_bytes(context) == alone

import threading

import pytest
import torch
from sqlalchemy import text

from jobs.models import Json
from tests.worker.shards.stage import (
    SET,
    complete,
    exiting,
    make,
    open_set,
    rows,
    tally,
)
from worker import shard_attempt
from worker.context import Context
from worker.shards import Made, Tick, complete_set, help_once


def test_files_are_stored_and_then_deleted(context: Context) -> None:
    open_set(context, 1)
    features, images = context.scratch / "features", context.scratch / "images.tar"
    features.write_bytes(b"f" * 10)
    images.write_bytes(b"i" * 20)
    files = Made(features, images, 1.0)
    (done,) = complete_set(SET, context, lambda *_: files, tick=lambda *_: None)
    assert (done.size_bytes, done.images_bytes) == (10, 20)
    assert done.images_sha256 is not None
    with context.store.open(done.images_sha256) as file:
        assert file.read() == b"i" * 20
    assert list(context.scratch.iterdir()) == []


def test_files_that_cannot_be_stored_are_deleted_too(context: Context) -> None:
    open_set(context, 1)
    (features := context.scratch / "features").write_bytes(b"f")
    with pytest.raises(FileNotFoundError):
        complete(context, lambda *_: Made(features, context.scratch / "none", 1.0))
    assert list(context.scratch.iterdir()) == []
    assert tally(context).waiting == 1


def test_an_error_of_any_kind_is_a_failure(context: Context) -> None:
    open_set(context, 1)

    def without_memory(_request: Json, _number: int, _tick: Tick) -> Made:
        raise torch.OutOfMemoryError("no room")

    assert not help_once(SET, context, without_memory)
    assert rows(context)[0].attempt == 1
    with pytest.raises(torch.OutOfMemoryError):
        complete(context, without_memory)


def test_a_shutdown_gives_the_shard_back_and_does_not_count(context: Context) -> None:
    open_set(context, 1)
    with pytest.raises(SystemExit):
        help_once(SET, context, exiting)
    with pytest.raises(SystemExit):
        complete(context, exiting)
    (row,) = rows(context)
    assert (row.attempt, row.lease_owner) == (0, None)
    assert help_once(SET, context, make)


def test_a_database_that_is_away_for_a_moment_costs_nothing(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_attempt, "RETRY_SECONDS", 0.02)
    open_set(context, 2)

    def rename(before: str, after: str) -> None:
        with context.sessions.begin() as session:
            session.execute(text(f"ALTER TABLE {before} RENAME TO {after}"))

    def takes_it_away(request: Json, number: int, tick: Tick) -> Made:
        rename("shards", "shards_away")
        timer = threading.Timer(0.3, rename, ("shards_away", "shards"))
        timer.start()
        return make(request, number, tick)

    assert complete(context, takes_it_away) == (0, 1)
    assert {row.attempt for row in rows(context)} == {1}

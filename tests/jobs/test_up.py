from pathlib import Path

import pytest

from jobs.queue import QUEUES
from jobs.settings import Settings
from jobs.supervisor import Program
from jobs.up import programs, up


def _queues(program: Program) -> list[str]:
    command = list(program.command)
    return command[command.index("--queues") + 1].split(",")


def _workers(number: int) -> dict[str, list[str]]:
    return {
        program.name: _queues(program)
        for program in programs(Settings(), workers=number)
        if "--queues" in program.command
    }


def test_without_helpers_there_are_two_workers_that_hear_everything() -> None:
    workers = _workers(0)
    assert workers == {
        "quantize": ["quantize", "evaluate", "sweep", "shards", "maintenance"],
        "sample": ["sample", "maintenance"],
    }
    assert {queue for queues in workers.values() for queue in queues} == set(QUEUES)


def test_helpers_hear_calls_for_help_and_have_names_of_their_own() -> None:
    workers = _workers(3)
    helpers = {name: queues for name, queues in workers.items() if "-" in name}
    assert list(helpers) == ["shards-1", "shards-2", "shards-3"]
    assert all(queues == ["shards", "maintenance"] for queues in helpers.values())
    hosts = [
        command[command.index("--hostname") + 1]
        for program in programs(Settings(), workers=3)
        if "--hostname" in (command := list(program.command))
    ]
    # Celery tells its workers apart by them, the supervisor their logs.
    assert len(set(hosts)) == len(workers)


def test_fewer_helpers_than_none_are_refused_before_anything_starts(
    tmp_path: Path,
) -> None:
    with pytest.raises(SystemExit, match="--workers must not be negative"):
        up(data=tmp_path / "data", workers=-1)
    assert not (tmp_path / "data").exists()

"""What runs of one evaluation tell, and the end of a helper that is not there."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from benchmarks.evaluation_ledger import kill_helper
from benchmarks.evaluation_runs import Cost, Made, Run, sharding_row, simulation_rows
from benchmarks.evaluation_table import print_rows
from jobs import shards
from jobs.artifacts import StoredArtifact
from jobs.models import JobKind
from tests.conftest import Sessions
from tests.factories import NOON, make_job

FIXED = {"engine", "images_per_second", "peak_bytes", "images"}


def at(seconds: float) -> datetime:
    return datetime(2026, 11, 21, tzinfo=UTC) + timedelta(seconds=seconds)


ALONE = Run(
    scores='[{"value": 1.5}]',
    value=1.5,
    num_images=40,
    began_at=at(0),
    ended_at=at(40),
    shards=(
        Made("a", at(3), at(12.5), seconds=9.0),
        Made("a", at(13), at(22.5), seconds=9.0),
        Made("a", at(23), at(33), seconds=9.5),
    ),
)
HELPED = replace(
    ALONE,
    ended_at=at(25),
    shards=(
        Made("a", at(3), at(12.5), seconds=9.0),
        Made("b", at(4), at(13.5), seconds=9.0),
        Made("a", at(13), at(22), seconds=8.5),
    ),
)


def test_where_a_run_s_seconds_went() -> None:
    assert ALONE.seconds == 40
    assert ALONE.setup_seconds == 3
    # Ten seconds from one start to the next, nine of them work.
    assert ALONE.gap_seconds == HELPED.gap_seconds == 1
    assert ALONE.seconds_per_image == 9.0 * 3 / 40


def test_a_score_that_differs_in_one_byte_is_not_identical() -> None:
    row = sharding_row(ALONE, HELPED, HELPED)
    assert set(row) >= FIXED
    assert (row["engine"], row["identical"]) == ("sharding", True)
    scores = [row[f"score_{name}"] for name in ("1_worker", "2_workers", "one_killed")]
    assert scores == [1.5] * 3
    assert row["speedup_2_workers"] == 40 / 25
    assert row["workers_that_made_shards"]["1_worker"] == 1
    assert row["workers_that_made_shards"]["one_killed"] == 2
    other = replace(HELPED, scores='[{"value": 1.5, "notes": []}]')
    assert not sharding_row(ALONE, HELPED, other)["identical"]


def test_the_simulation_is_the_formula() -> None:
    cost = Cost(setup=2.0, image=0.1, gap=0.5, score=3.0)
    # 10 shards of 10 images: 4 turns of 1.5 seconds for 3 workers.
    sizes = {"num_images": 100, "shard_images": 10}
    assert cost.seconds(**sizes, workers=3) == 2 + 4 * 1.5 + 3
    # One turn for each; but the ledger needs 10 gaps of half a second.
    assert cost.seconds(**sizes, workers=10) == 2 + 5 + 3
    rows = simulation_rows(cost, **sizes, workers=(1, 3, 10, 100))
    assert [row["workers"] for row in rows] == [1, 3, 10, 100]
    assert rows[0]["images_per_second"] == 100 / 20
    assert rows[1]["speedup"] == 20 / 11
    assert rows[3]["efficiency"] == pytest.approx(0.02)
    assert all("computed" in row["note"] for row in rows)
    assert all(set(row) >= FIXED for row in rows)


def test_the_table_shows_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = [
        {
            "engine": "score-2000",
            "images_per_second": 200.0,
            "peak_bytes": 60e6,
            "images": 2000,
            "floor_bytes": 500e6,
        },
        sharding_row(ALONE, HELPED, replace(HELPED, scores="[]")),
        *simulation_rows(Cost(1, 1, 1, 1), num_images=10, shard_images=5, workers=[2]),
    ]
    print_rows(rows, {"torch-fidelity": "It is not installed."})
    text = capsys.readouterr().out
    assert "score-2000" in text
    assert "500 to 500 MB" in text
    assert "NOT identical" in text
    assert "computed" in text
    assert "torch-fidelity: left out. It is not installed." in text


def test_without_a_helper_nobody_is_killed(sessions: Sessions) -> None:
    digest, stored = "0" * 64, StoredArtifact("1" * 64, 1, "text/plain")
    with sessions.begin() as session:
        job = make_job(session, kind=JobKind.EVALUATE)
        shards.open_set(
            session, job.id, digest=digest, request={}, num_shards=1, now=NOON
        )
        lease = shards.claim_shard(
            session, digest, owner="host:1", now=NOON, stale_before=NOON
        )
        assert lease is not None
        shards.finish_shard(
            session, lease, stored=stored, images=None, seconds=1.0, now=NOON
        )
    with pytest.raises(RuntimeError, match="no helper was caught"):
        kill_helper(sessions, job.id)

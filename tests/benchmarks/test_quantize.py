import json
import subprocess
import sys
from pathlib import Path

from benchmarks.quantize import _timing
from tests.tiny import save_tiny_pipeline

ROOT = Path(__file__).parents[2]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.quantize", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_stage_has_a_row_with_its_time_and_its_peak(tmp_path: Path) -> None:
    model = save_tiny_pipeline(tmp_path / "tiny")
    own, rows = tmp_path / "own.json", tmp_path / "rows.json"
    par = {"kind": "par", "rounds": 0, "iterations": 3, "batch_size": 4}
    own.write_text(json.dumps({"passes": [{"kind": "fit_ranges"}, par]}))
    done = run(
        *("--model", model, "--recipes", own, "--samples", "2", "--steps", "3"),
        *("--json", rows),
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(rows.read_text())
    found = document["rows"]
    assert [row["stage"] for row in found] == [
        *("fetch", "calibrate", "fit_ranges", "par", "save", "verify")
    ]
    for row in found:
        assert row["seconds"] >= 0
        assert row["peak_bytes"] > 50e6
        if row["stage"] != "par":
            assert row["iterations_per_second"] is None
            assert row["capture_share"] is None
    assert document["multiplications_per_second"] > 0
    assert "estimated / measured" in done.stdout


def test_an_unknown_recipe_is_a_usage_error() -> None:
    assert run("--recipes", "nope").returncode == 2


def test_reconstructions_own_clock_is_read_where_there_is_one() -> None:
    timing = {"iterations": 300, "optimise_seconds": 60.0}
    timing |= {"capture_seconds": 25.0, "total_seconds": 100.0}
    assert _timing({"timing": timing}) == {
        "iterations_per_second": 5.0,
        "capture_share": 0.25,
    }
    nothings: tuple[object, ...] = (None, [], {"blocks": []})
    for nothing in nothings:
        assert set(_timing(nothing).values()) == {None}

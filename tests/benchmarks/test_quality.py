import json
import subprocess
import sys
from pathlib import Path

from tests.tiny import save_tiny_pipeline

ROOT = Path(__file__).parents[2]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.quality", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_measures_any_folder_with_presets_and_recipes_of_ones_own(
    tmp_path: Path,
) -> None:
    model = save_tiny_pipeline(tmp_path / "tiny")
    own, rows = tmp_path / "own.json", tmp_path / "rows.json"
    own.write_text(json.dumps({"passes": [{"kind": "fit_ranges"}]}))
    done = run(
        *("--model", model, "--recipes", f"rtn,{own}", "--bits", "W8A8,W4A4"),
        *("--images", "2", "--steps", "3", "--json", rows),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(rows.read_text())["rows"]
    assert [row["weight_bits"] for row in found] == [8, 8, 4, 4]
    for row in found:
        assert set(row) == {
            "recipe",
            "weight_bits",
            "activation_bits",
            "psnr_db",
            "noise_relative_mse",
            "quantize_seconds",
            "checkpoint_bytes",
        }
    rtn8, _, rtn4, _ = found
    assert rtn4["noise_relative_mse"] > 10 * rtn8["noise_relative_mse"] > 0
    assert rtn4["psnr_db"] < rtn8["psnr_db"]
    assert rtn4["checkpoint_bytes"] < rtn8["checkpoint_bytes"]


def test_an_unknown_recipe_is_a_usage_error() -> None:
    done = run("--recipes", "nope")
    assert done.returncode == 2
    assert "tcaq-paper" in done.stderr

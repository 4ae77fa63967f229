import subprocess
import sys
from pathlib import Path

from tests.tiny import save_tiny_pipeline

ROOT = Path(__file__).parents[2]


def test_a_row_compares_both_executions_with_each_other(tmp_path: Path) -> None:
    model = save_tiny_pipeline(tmp_path / "tiny")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.equality", "--model", str(model)),
            *("--recipes", "rtn", "--bits", "W8A8", "--images", "4", "--steps", "3"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    name, bits, *values = done.stdout.splitlines()[-1].split()
    assert (name, bits) == ("rtn", "W8A8")
    assert len(values) == 5
    assert float(values[2]) > 20
    assert values[4] == "equal" or float(values[4]) > 20

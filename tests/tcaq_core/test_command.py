import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from tcaq_core import checkpoint
from tcaq_core.command import quantize
from tcaq_core.evaluation.speed import Benchmark
from tcaq_core.report import LayerReport
from tests.tiny import save_tiny_pipeline

SHORT = ("--recipe", "rtn", "--steps", "3", "--samples", "2")


@pytest.fixture
def app() -> typer.Typer:
    """Return the verb as `tcaq` mounts it."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command("quantize")(quantize)
    return app


def test_a_folder_is_quantized_into_a_folder(
    app: typer.Typer, tiny_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "made" / "w3a8"
    arguments = [str(tiny_folder), "--out", str(out), "--bits", "W3A8", *SHORT]
    arguments += ["--benchmark-seconds", "2", "--export", "onnx"]
    result = CliRunner().invoke(app, [*arguments, "--softmax-bits", "6"])
    assert result.exit_code == 0, result.stderr
    assert "fit_ranges 1/1" in result.stderr
    assert "bit-equal" in result.stdout
    words = ("calibrate", "verify", "benchmark", "executes", "x float32", "denoiser")
    for word in (*words, str(out / "checkpoint")):
        assert word in result.stdout
    assert sorted(p.name for p in out.iterdir()) == [
        "checkpoint",
        "model.onnx",
        "report.json",
        "report.png",
    ]
    loaded = checkpoint.load(out / "checkpoint", device=torch.device("cpu"))
    recipe = loaded.manifest.recipe
    assert (recipe.weight_bits, recipe.softmax_bits) == (3, 6)
    assert recipe.calibration.num_steps == 3
    document = json.loads((out / "report.json").read_text())
    assert LayerReport.model_validate(document["layers"]).passes
    assert Benchmark.model_validate(document["benchmark"]).rounds >= 1
    assert 0 <= document["execution"]["relative_error"] < 0.5
    assert (
        document["exports"]["onnx"]["size_bytes"] == (out / "model.onnx").stat().st_size
    )
    assert [p.name for p in out.parent.iterdir()] == ["w3a8"]


def test_a_method_of_ones_own_comes_from_a_file(
    app: typer.Typer, tiny_folder: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"passes": [{"kind": "fit_ranges"}]}))
    arguments = [str(tiny_folder), "--estimate", "--recipe", str(own)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert "fit_ranges" in result.stdout
    assert "tcr" not in result.stdout


def test_a_folder_with_anything_in_it_is_left_alone(
    app: typer.Typer, tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    result = CliRunner().invoke(app, [str(tiny_folder), "--out", str(tmp_path), *SHORT])
    assert result.exit_code == 2
    assert "It exists already" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_refusal_is_a_line_and_a_hint(app: typer.Typer, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(
        app, [str(tmp_path / "none"), "--out", str(out), *SHORT]
    )
    assert result.exit_code == 1
    error, hint = result.stderr.splitlines()[-2:]
    assert error.startswith("error: ")
    assert "(model_not_found)" in error
    assert hint.startswith("  hint: ")
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        ["--bits", "4,8"],
        ["--bits", "W4A3"],
        ["--bits", "W1A8"],
        ["--recipe", "nope"],
        ["--recipe", "missing.json"],
        ["--steps", "0"],
        ["--softmax-bits", "2"],
        ["--device", "toaster"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(
    app: typer.Typer, tiny_folder: Path, tmp_path: Path, wrong: list[str]
) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(app, [str(tiny_folder), "--out", str(out), *wrong])
    assert result.exit_code == 2, result.output
    assert not out.exists()


def test_a_result_needs_a_folder(app: typer.Typer, tiny_folder: Path) -> None:
    result = CliRunner().invoke(app, [str(tiny_folder)])
    assert result.exit_code == 2
    assert "--out" in result.stderr


def test_an_estimate_writes_nothing(
    app: typer.Typer, tiny_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(
        app, [str(tiny_folder), "--out", str(out), "--estimate"]
    )
    assert result.exit_code == 0
    assert result.stdout.startswith("about ")
    assert "memory" in result.stdout
    assert not out.exists()


def test_tcaq_has_the_verb(tmp_path: Path) -> None:
    model = save_tiny_pipeline(tmp_path / "tiny")
    done = subprocess.run(
        [Path(sys.executable).with_name("tcaq"), "quantize", model, "--estimate"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("about ")

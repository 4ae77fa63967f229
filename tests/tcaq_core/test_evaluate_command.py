import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tcaq_core.evaluate_command import evaluate
from tcaq_core.evaluation.record import ScoreRecord
from tests.extractors import NAME, REFERENCE, save_evaluation_directory

SMALL = ("--images", "24", "--steps", "2", "--batch-size", "8")
NETWORK = ("--extractor", NAME, "--reference", REFERENCE)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_evaluation_directory(tmp_path_factory.mktemp("evaluation") / "own")


@pytest.fixture
def app() -> typer.Typer:
    """Return the verb as `tcaq` mounts it."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command("evaluate")(evaluate)
    return app


def test_a_model_is_scored_in_the_terminal(
    app: typer.Typer, tiny_folder: Path, directory: Path
) -> None:
    arguments = [str(tiny_folder), "--directory", str(directory), *SMALL, *NETWORK]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert f"FD-{NAME}" in result.stdout
    assert "changed: num_images, num_steps, extractor, reference" in result.stdout
    assert "target 0/24" in result.stderr
    assert "note: A Frechet distance over 24 images is biased upwards" in result.stdout


def test_the_records_are_printed_in_full(
    app: typer.Typer, tiny_folder: Path, directory: Path, tmp_path: Path
) -> None:
    # The model as its own baseline: nothing differs.
    files = ["--extractor", str(directory / "extractors" / NAME)]
    files += ["--reference", str(directory / "references" / f"{REFERENCE}.safetensors")]
    arguments = [str(tiny_folder), "--model", str(tiny_folder), *SMALL, *files]
    arguments += ["--metric", "fd", "--metric", "psnr_db", "--json"]
    result = CliRunner().invoke(app, [*arguments, "--work", str(tmp_path)])
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    scores = [ScoreRecord.model_validate(score) for score in document["scores"]]
    assert [score.metric for score in scores] == ["fd", "psnr_db"]
    assert scores[0].baseline is not None
    assert scores[0].baseline.delta == 0.0
    assert scores[1].value is None
    assert document["plan"]["reference"]["info"]["name"] == REFERENCE
    assert list(tmp_path.rglob("*.safetensors"))


def test_fid_without_its_weights_is_refused_with_the_setting_to_make(
    app: typer.Typer, tiny_folder: Path
) -> None:
    arguments = [str(tiny_folder), "--protocol", "cifar10-50k"]
    result = CliRunner().invoke(app, arguments, env={"TCAQ_INCEPTION_WEIGHTS": None})
    assert result.exit_code == 1
    assert "TCAQ_INCEPTION_WEIGHTS" in result.stderr
    assert "extractor_unavailable" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--metric", "fid"), "ask for ['fd']"),
        (("--metric", "lpips"), "metrics.0"),
        (("--protocol", "best"), "no protocol of that name"),
        (("--device", "cuda:99"), "--device"),
    ],
)
def test_wrong_usage_is_said(
    app: typer.Typer, tiny_folder: Path, arguments: tuple[str, ...], said: str
) -> None:
    # Wide enough that no message is broken over lines.
    result = CliRunner().invoke(
        app, [str(tiny_folder), *arguments], env={"COLUMNS": "300"}
    )
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_folder_that_is_nothing_is_refused(
    app: typer.Typer, tmp_path: Path, directory: Path
) -> None:
    arguments = [str(tmp_path), "--directory", str(directory), *SMALL, *NETWORK]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "model_not_found" in result.stderr

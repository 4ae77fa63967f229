import json
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from tcaq_core.evaluation.cifar_resnet import CifarResNet
from tcaq_core.evaluation.reference import load_reference
from tcaq_core.evaluation.reference_file import find_reference, read_reference
from tcaq_core.reference_command import reference
from tests.tcaq_core.evaluation.picture_files import (
    pixels,
    save_npz,
    save_png,
    save_pngs,
)

NUM_IMAGES = 40
SETTINGS = (
    "TCAQ_EVALUATION_DIRECTORY",
    "TCAQ_INCEPTION_WEIGHTS",
    "TCAQ_DATA_DIRECTORY",
)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    """Return the verb as `tcaq` mounts it."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command("reference")(reference)
    return app


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an evaluation folder with one small network of eight features, `tiny`."""
    root = tmp_path_factory.mktemp("evaluation")
    folder = root / "extractors" / "tiny"
    folder.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = CifarResNet(num_blocks=1, width=4, num_classes=10)
    tensors = {
        name: tensor
        for name, tensor in network.state_dict().items()
        if tensor.is_floating_point()
    }
    save_file(tensors, folder / "model.safetensors")
    config = {
        "architecture": "cifar-resnet",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "image_size": 32,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return root


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return save_npz(tmp_path / "few.npz", images=pixels(NUM_IMAGES, side=32))


def call(app: typer.Typer, *arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_reference_is_made_under_its_name(
    app: typer.Typer, directory: Path, images: Path
) -> None:
    told = ("--directory", directory, "--json")
    result = call(app, images, "--extractor", "tiny", "--name", "made", *told)
    assert result.exit_code == 0, result.stderr
    assert f"features {NUM_IMAGES}/{NUM_IMAGES}" in result.stderr
    path = find_reference("made", directory=directory)
    used = read_reference(path)
    said = json.loads(result.stdout)
    assert said.pop("seconds") > 0
    assert said.pop("images_per_second") > 0
    assert said == {
        "path": str(path),
        "sha256": used.stats_sha256,
        "n": NUM_IMAGES,
        "extractor": "tiny",
    }
    assert (used.info.name, used.info.extractor.dtype) == ("made", "float32")
    assert load_reference(path).features is not None


def test_settings_name_the_folder_and_the_images_the_file(
    app: typer.Typer, directory: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TCAQ_EVALUATION_DIRECTORY", str(directory))
    result = call(app, images, "--extractor", "tiny", "--no-features")
    assert result.exit_code == 0, result.stderr
    path = directory / "references" / "few.safetensors"
    assert str(path) in result.stdout
    assert read_reference(path).stats_sha256 in result.stdout
    assert not read_reference(path).info.has_features


def test_a_network_is_named_by_its_file_too(
    app: typer.Typer, directory: Path, images: Path, tmp_path: Path
) -> None:
    by_name, by_file = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    options = ("--name", "same", "--directory", directory)
    call(app, images, "--extractor", "tiny", "--out", by_name, *options)
    network = directory / "extractors" / "tiny"
    result = call(app, images, "--extractor", network, "--out", by_file, *options)
    assert result.exit_code == 0, result.stderr
    assert by_name.read_bytes() == by_file.read_bytes()


def test_bfloat16_is_recorded(
    app: typer.Typer, directory: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "half.safetensors"
    options = ("--dtype", "bfloat16", "--out", out, "--directory", directory)
    result = call(app, images, "--extractor", "tiny", *options)
    assert result.exit_code == 0, result.stderr
    assert read_reference(out).info.name == "half"
    assert read_reference(out).info.extractor.dtype == "bfloat16"


def test_an_older_reference_is_only_written_over_by_force(
    app: typer.Typer, directory: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mine.safetensors"
    out.write_bytes(b"mine")
    options = ("--extractor", "tiny", "--out", out, "--directory", directory)
    result = call(app, images, *options)
    assert result.exit_code == 2
    assert "--force" in result.stderr
    assert out.read_bytes() == b"mine"
    assert call(app, images, *options, "--force").exit_code == 0
    assert read_reference(out).info.n == NUM_IMAGES


def refused(result: Result, code: str) -> None:
    assert result.exit_code == 1, result.output
    error, hint = result.stderr.splitlines()[-2:]
    assert error.startswith("error: ")
    assert error.endswith(f"({code})")
    assert hint.startswith("  hint: ")
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_refusals_are_a_line_and_a_hint(
    app: typer.Typer, directory: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    options = ("--out", out, "--directory", directory, "--extractor")
    mixed = save_pngs(tmp_path / "mixed", pixels(20, side=32))
    few = save_pngs(tmp_path / "few", pixels(8, side=32))
    save_png(mixed / "odd.png", pixels(1, side=31)[0])
    refused(call(app, mixed, *options, "tiny"), "images_unusable")
    refused(call(app, few, *options, "tiny"), "images_unusable")
    refused(call(app, few, *options, "nope"), "extractor_unavailable")
    refused(call(app, few, *options, tmp_path / "no"), "extractor_unavailable")
    inception = call(app, few, *options, "inception-v3-fid")
    refused(inception, "extractor_unavailable")
    assert "TCAQ_INCEPTION_WEIGHTS" in inception.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    "wrong",
    [
        ["--name", "../x"],
        ["--name", "a b"],
        ["--out", "x.npz"],
        ["--dtype", "float16"],
        ["--batch-size", "0"],
        ["--device", "toaster"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(
    app: typer.Typer, directory: Path, images: Path, wrong: list[str]
) -> None:
    before = sorted(directory.rglob("*"))
    options = ("--extractor", "tiny", "--directory", directory, "--force")
    result = call(app, images, *options, *wrong)
    assert result.exit_code == 2, result.output
    assert sorted(directory.rglob("*")) == before


def test_a_place_that_cannot_be_written_is_wrong_usage(
    app: typer.Typer, directory: Path, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    out = tmp_path / "file" / "x.safetensors"
    options = ("--extractor", "tiny", "--directory", directory, "--out", out)
    result = call(app, images, *options)
    assert result.exit_code == 2
    assert "--out" in result.stderr

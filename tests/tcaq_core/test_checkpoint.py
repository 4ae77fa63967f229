import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tcaq_core import checkpoint
from tcaq_core.diffusion import load_pipeline, sample
from tcaq_core.environment import describe_environment
from tcaq_core.errors import CheckpointShapeMismatch, ModelUnsupported
from tcaq_core.manifest import Manifest
from tcaq_core.quantization import quantize
from tcaq_core.recipe import (
    DAQ,
    PAR,
    TCR,
    FitRanges,
    Method,
    Select,
    Split,
    resolve,
)
from tests.tcaq_core.conftest import SPEC

CPU = torch.device("cpu")
BY_STEP_AND_PART = Method(
    passes=(
        Select(rule="normal", num_inputs=16),
        Split(),
        TCR(strength="search", cap="dilation", layers="all"),
        FitRanges(activation="min_max", timesteps="step"),
        DAQ(num_groups=3),
        PAR(rounds=1, iterations=3, round_iterations=2),
    ),
    skip=("conv_in", "conv_out"),
)
EVERYTHING = Method(
    passes=(
        TCR(),
        FitRanges(),
        DAQ(num_groups=3),
        PAR(rounds=1, iterations=3, round_iterations=2),
    ),
    skip=("conv_in", "conv_out"),
)


def write(
    tiny_folder: Path,
    folder: Path,
    *,
    weight_bits: int = 4,
    activation_bits: int = 8,
    method: Method = EVERYTHING,
) -> tuple[Manifest, str, torch.Tensor]:
    recipe = resolve(
        method,
        weight_bits=weight_bits,
        activation_bits=activation_bits,  # type: ignore[arg-type]
        calibration=SPEC,
    )
    pipeline = load_pipeline(tiny_folder, device=CPU)
    result = quantize(pipeline, recipe, progress=lambda *_: None)
    manifest = checkpoint.save(
        folder,
        pipeline,
        result.denoiser,
        recipe,
        model={"reference": "tiny"},
        environment=dict(describe_environment(CPU)),
    )
    images = sample(pipeline, seeds=[5, 6], num_steps=7)
    return manifest, checkpoint.probe(pipeline), images


@pytest.mark.parametrize(("weight_bits", "activation_bits"), [(2, 4), (4, 8), (8, 16)])
def test_a_reloaded_checkpoint_samples_bit_equal_images(
    tiny_folder: Path, tmp_path: Path, weight_bits: int, activation_bits: int
) -> None:
    _, digest, images = write(
        tiny_folder,
        tmp_path / "c",
        weight_bits=weight_bits,
        activation_bits=activation_bits,
    )
    loaded = checkpoint.load(tmp_path / "c", device=CPU)
    assert checkpoint.probe(loaded.pipeline) == digest
    assert torch.equal(sample(loaded.pipeline, seeds=[5, 6], num_steps=7), images)


@pytest.mark.parametrize("activation_bits", [4, 16])
def test_grids_by_step_and_part_are_reloaded_bit_equal(
    tiny_folder: Path, tmp_path: Path, activation_bits: int
) -> None:
    manifest, digest, images = write(
        tiny_folder,
        tmp_path / "c",
        activation_bits=activation_bits,
        method=BY_STEP_AND_PART,
    )
    structure = manifest.structure
    assert structure.layers["up_blocks.1.resnets.0.conv_shortcut"].parts == (32, 16)
    assert len(structure.steps) > 1
    loaded = checkpoint.load(tmp_path / "c", device=CPU)
    assert checkpoint.probe(loaded.pipeline) == digest
    assert torch.equal(sample(loaded.pipeline, seeds=[5, 6], num_steps=7), images)


def test_a_fresh_process_reloads_it_bit_equal(
    tiny_folder: Path, tmp_path: Path
) -> None:
    _, digest, _ = write(tiny_folder, tmp_path / "c")
    answer = subprocess.run(
        [sys.executable, "-m", "tcaq_core.reload", str(tmp_path / "c")],
        capture_output=True,
        check=True,
    )
    assert json.loads(answer.stdout)["probe_sha256"] == digest


def test_the_same_job_gives_the_same_bytes(tiny_folder: Path, tmp_path: Path) -> None:
    first, *_ = write(tiny_folder, tmp_path / "a")
    second, *_ = write(tiny_folder, tmp_path / "b")
    assert first.files == second.files


def test_another_seed_gives_other_outputs(tiny_folder: Path, tmp_path: Path) -> None:
    _, digest, _ = write(tiny_folder, tmp_path / "c")
    assert checkpoint.probe(load_pipeline(tiny_folder, device=CPU)) != digest


def test_a_4_bit_weight_takes_half_a_byte(tiny_folder: Path, tmp_path: Path) -> None:
    manifest, *_ = write(tiny_folder, tmp_path / "c")
    stored = load_file(tmp_path / "c" / checkpoint.WEIGHTS)
    for name, entry in manifest.structure.layers.items():
        codes = torch.Size(entry.shape).numel()
        assert stored[f"{name}.weight_codes"].nbytes == -(-codes // 2)


@pytest.mark.parametrize("victim", [checkpoint.WEIGHTS, "config.json"])
def test_an_altered_file_is_refused(
    tiny_folder: Path, tmp_path: Path, victim: str
) -> None:
    write(tiny_folder, tmp_path / "c")
    path = tmp_path / "c" / victim
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointShapeMismatch, match=victim):
        checkpoint.load(tmp_path / "c", device=CPU)


def test_a_missing_file_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    write(tiny_folder, tmp_path / "c")
    (tmp_path / "c" / checkpoint.WEIGHTS).unlink()
    with pytest.raises(CheckpointShapeMismatch):
        checkpoint.load(tmp_path / "c", device=CPU)


def test_a_manifest_that_points_outside_is_refused(
    tiny_folder: Path, tmp_path: Path
) -> None:
    write(tiny_folder, tmp_path / "c")
    path = tmp_path / "c" / "manifest.json"
    manifest = json.loads(path.read_text())
    outside = manifest["files"].pop("model_index.json")
    manifest["files"]["../outside.json"] = outside
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointShapeMismatch, match="outside"):
        checkpoint.load(tmp_path / "c", device=CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"schema_version": 1}, "schema version 1"), ({"surprise": 1}, "no readable")],
)
def test_an_unknown_manifest_is_refused(
    tiny_folder: Path, tmp_path: Path, change: dict[str, int], message: str
) -> None:
    write(tiny_folder, tmp_path / "c")
    path = tmp_path / "c" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelUnsupported, match=message):
        checkpoint.load(tmp_path / "c", device=CPU)


def test_a_manifest_nested_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(ModelUnsupported, match="no readable"):
        checkpoint.load(tmp_path, device=CPU)


def test_a_folder_that_is_no_checkpoint_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(ModelUnsupported, match="manifest"):
        checkpoint.load(tiny_folder, device=CPU)


def test_reload_answers_with_the_error_s_code(tiny_folder: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "tcaq_core.reload", str(tiny_folder)],
        capture_output=True,
        check=False,
    )
    assert answer.returncode == 1
    assert json.loads(answer.stdout)["error"] == "model_unsupported"

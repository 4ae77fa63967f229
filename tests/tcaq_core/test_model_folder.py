import json
import shutil
from pathlib import Path

import pytest

from tcaq_core.errors import (
    CheckpointShapeMismatch,
    CheckpointUnsafe,
    ModelNotFound,
    ModelUnsupported,
)
from tcaq_core.model_folder import (
    HubModel,
    inspect_model_folder,
    parse_reference,
    read_safetensors_header,
)

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "models" / "tiny"))


def test_a_local_name_is_a_folder_among_the_models(folder: Path) -> None:
    assert parse_reference("tiny", folders=folder.parent) == folder


def test_a_hub_model_is_pinned(tmp_path: Path) -> None:
    found = parse_reference(f"google/ddpm@{REVISION}", folders=tmp_path)
    assert found == HubModel("google/ddpm", REVISION)
    with pytest.raises(ModelNotFound, match="not pinned"):
        parse_reference("google/ddpm", folders=tmp_path)


@pytest.mark.parametrize(
    "reference",
    ["", ".", "..", "../tiny", "/etc", "a/b/c", "tiny/../tiny", "tiny\n", "a\x00b"],
)
def test_no_reference_reaches_outside_the_models(folder: Path, reference: str) -> None:
    with pytest.raises(ModelNotFound):
        parse_reference(reference, folders=folder.parent)


def test_a_link_out_of_the_models_is_not_followed(folder: Path, tmp_path: Path) -> None:
    outside = shutil.copytree(folder, tmp_path / "outside")
    (folder.parent / "link").symlink_to(outside)
    with pytest.raises(ModelNotFound):
        parse_reference("link", folders=folder.parent)


def test_an_unknown_name_lists_the_known_ones(folder: Path) -> None:
    with pytest.raises(ModelNotFound) as refused:
        parse_reference("other", folders=folder.parent)
    assert "tiny" in refused.value.hint


def test_a_good_folder_is_described(folder: Path) -> None:
    found = inspect_model_folder(folder)
    assert found.pipeline == "DDIMPipeline"
    assert found.sample_size == 8
    assert found.num_parameters > 10_000
    assert len(found.weights_sha256()) == 64


def test_another_pipeline_or_denoiser_is_unsupported(folder: Path) -> None:
    config = folder / "unet" / "config.json"
    original = config.read_text()
    config.write_text(json.dumps({"_class_name": "UNet3D"}))
    with pytest.raises(ModelUnsupported, match="UNet3D"):
        inspect_model_folder(folder)
    config.write_text(original)
    index = folder / "model_index.json"
    index.write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(ModelUnsupported, match="FluxPipeline"):
        inspect_model_folder(folder)
    index.write_text("[1]")
    with pytest.raises(ModelUnsupported):
        inspect_model_folder(folder)
    index.write_text("{")
    with pytest.raises(ModelUnsupported):
        inspect_model_folder(folder)
    index.unlink()
    with pytest.raises(ModelNotFound):
        inspect_model_folder(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"in_channels": "three"},
        {"sample_size": []},
        {"sample_size": 0},
        {"num_class_embeds": 10},
    ],
)
def test_a_config_that_cannot_be_worked_with_is_unsupported(
    folder: Path, change: dict[str, object]
) -> None:
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(ModelUnsupported):
        inspect_model_folder(folder)


def test_the_scheduler_is_looked_at_before_anything_is_queued(folder: Path) -> None:
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({"_class_name": "PNDMScheduler"}))
    with pytest.raises(ModelUnsupported, match="PNDMScheduler"):
        inspect_model_folder(folder)
    config.unlink()
    with pytest.raises(ModelNotFound, match="scheduler_config"):
        inspect_model_folder(folder)


def test_pickled_weights_alone_are_unsafe(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointUnsafe, match="pickled"):
        inspect_model_folder(folder)
    (folder / "unet" / "diffusion_pytorch_model.bin").unlink()
    with pytest.raises(ModelNotFound, match="has no diffusion_pytorch_model"):
        inspect_model_folder(folder)


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1])
def test_a_truncated_file_is_refused(folder: Path, keep: int) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:keep])
    with pytest.raises(CheckpointShapeMismatch):
        inspect_model_folder(folder)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{",
        b"[" * 99_999,
        b'{"a": 1}',
        b'{"a": {"data_offsets": []}}',
        b'{"a": {"shape": [1]}}',
        b"\xff\xff",
    ],
)
def test_a_malformed_header_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointShapeMismatch):
        read_safetensors_header(path)

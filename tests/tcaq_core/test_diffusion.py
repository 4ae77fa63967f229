import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from safetensors.torch import load_file, save_file

from tcaq_core.diffusion import (
    Pipeline,
    fetch_hub_model,
    load_pipeline,
    sample,
    to_uint8,
)
from tcaq_core.errors import (
    CheckpointShapeMismatch,
    ModelNotFound,
    ModelUnsupported,
)
from tcaq_core.model_folder import HubModel
from tests.tiny import tiny_unet

CPU = torch.device("cpu")


def test_an_image_depends_on_its_own_seed_only(pipeline: Pipeline) -> None:
    together = sample(pipeline, seeds=[7, 8, 9], num_steps=3, batch_size=3)
    apart = sample(pipeline, seeds=[9, 7], num_steps=3, batch_size=1)
    assert torch.allclose(together[2], apart[0], atol=1e-5)
    assert torch.allclose(together[0], apart[1], atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


def test_a_sampler_with_noise_of_its_own_is_seeded_too(tmp_path: Path) -> None:
    pipeline = DDPMPipeline(unet=tiny_unet(), scheduler=DDPMScheduler())
    pipeline.save_pretrained(tmp_path / "ddpm")
    loaded = load_pipeline(tmp_path / "ddpm", device=CPU)
    first = sample(loaded, seeds=[1, 2], num_steps=3)
    again = sample(loaded, seeds=[2], num_steps=3)
    assert torch.allclose(first[1:], again, atol=1e-5)


def test_images_are_in_the_unit_range_and_progress_counts_them(
    pipeline: Pipeline,
) -> None:
    seen: list[tuple[int, int]] = []
    images = sample(
        pipeline,
        seeds=range(5),
        num_steps=2,
        batch_size=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert images.shape == (5, 3, 8, 8)
    assert float(images.abs().max()) <= 1.0
    assert seen == [(done, 6) for done in range(1, 7)]  # 3 batches of 2 steps


def test_to_uint8_maps_the_ends_exactly() -> None:
    images = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1)
    assert to_uint8(images).flatten().tolist() == [0, 128, 255]


def test_weights_of_another_model_are_refused(
    tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(tiny_folder, folder)
    config = folder / "unet" / "config.json"
    changed = json.loads(config.read_text()) | {"block_out_channels": [16, 64]}
    config.write_text(json.dumps(changed))
    with pytest.raises(CheckpointShapeMismatch):
        load_pipeline(folder, device=CPU)


def test_a_lost_tensor_is_refused_by_name(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "lossy"))
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["mid_block.resnets.0.conv1.weight"]
    save_file(weights, path)
    with pytest.raises(CheckpointShapeMismatch, match=r"mid_block\.resnets\.0\.conv1"):
        load_pipeline(folder, device=CPU)


def test_parts_at_the_root_are_found_too(tiny_folder: Path, tmp_path: Path) -> None:
    """The first pipelines on the hub have no unet/ and no scheduler/ folder."""
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in tiny_folder.rglob("*.*"):
        shutil.copy(path, flat / path.name)
    nested = load_pipeline(tiny_folder, device=CPU)
    loaded = load_pipeline(flat, device=CPU)
    images = sample(loaded, seeds=[3], num_steps=2)
    assert torch.equal(images, sample(nested, seeds=[3], num_steps=2))


def test_more_steps_than_the_schedule_has_are_refused(pipeline: Pipeline) -> None:
    with pytest.raises(ModelUnsupported, match="1001 steps"):
        sample(pipeline, seeds=[0], num_steps=1001)


def test_an_unknown_scheduler_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(tiny_folder, folder)
    config = folder / "scheduler" / "scheduler_config.json"
    changed = json.loads(config.read_text()) | {"_class_name": "PNDMScheduler"}
    config.write_text(json.dumps(changed))
    with pytest.raises(ModelUnsupported, match="PNDMScheduler"):
        load_pipeline(folder, device=CPU)


def test_an_unreachable_hub_is_a_coded_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFound, match="could not be fetched"):
        fetch_hub_model(HubModel("owner/name", "0" * 40), cache=tmp_path)

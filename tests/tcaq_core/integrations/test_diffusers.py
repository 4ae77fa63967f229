import hashlib
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDPMPipeline, UNet2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from tcaq_core import checkpoint
from tcaq_core.correction import calibrated_variance, correction_of
from tcaq_core.difference import differences_in
from tcaq_core.diffusion import load_pipeline, sample
from tcaq_core.errors import (
    CheckpointShapeMismatch,
    CheckpointUnsafe,
    ModelUnsupported,
)
from tcaq_core.integrations.diffusers import TCAQConfig, execution
from tcaq_core.model_folder import inspect_model_folder
from tcaq_core.quantization import quantize
from tcaq_core.recipe import (
    TCR,
    Correct,
    FitRanges,
    Method,
    Modulate,
    Pass,
    Split,
    resolve,
)
from tests.tcaq_core.conftest import SPEC

CPU = torch.device("cpu")
WEIGHTS = checkpoint.WEIGHTS
PLAIN = (Split(), TCR(), FitRanges(activation="min_max"))
Alter = Callable[[dict[str, Any]], object]


def write(tiny_folder: Path, folder: Path, *passes: Pass, bits: int = 8) -> Path:
    """Quantize the tiny pipeline into a checkpoint folder; return it."""
    method = Method(passes=passes, skip=("conv_in", "conv_out"))
    recipe = resolve(
        method,
        weight_bits=4,
        activation_bits=bits,  # type: ignore[arg-type]
        calibration=SPEC,
    )
    pipeline = load_pipeline(tiny_folder, device=CPU)
    result = quantize(pipeline, recipe, progress=lambda *_: None)
    checkpoint.save(folder, pipeline, result.denoiser, recipe, model={}, environment={})
    return folder


@pytest.fixture(scope="module")
def original(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tiny_folder, tmp_path_factory.mktemp("tcaq") / "c", *PLAIN)


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "checkpoint"))


def simulated(folder: Path, **arguments: object) -> UNet2DModel:
    with execution("simulated"):
        return UNet2DModel.from_pretrained(folder, **arguments)


def predict(unet: UNet2DModel) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x_t = torch.randn((2, 3, 8, 8), generator=generator)
    with torch.no_grad():
        eps: Tensor = unet(x_t, 400, return_dict=False)[0]
    return eps


def draw(pipeline: DDIMPipeline, *, num_steps: int = 5, eta: float = 0.0) -> Tensor:
    """Return images as `diffusion.sample` does, from a plain pipeline."""
    pipeline.set_progress_bar_config(disable=True)
    images: np.ndarray[Any, Any] = pipeline(
        batch_size=2,
        num_inference_steps=num_steps,
        generator=[torch.Generator().manual_seed(seed) for seed in (5, 6)],
        output_type="np",
        eta=eta,
    ).images
    return torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1


def expected(folder: Path, *, num_steps: int = 5, eta: float = 0.0) -> Tensor:
    loaded = checkpoint.load(folder, device=CPU)
    return sample(loaded.pipeline, seeds=[5, 6], num_steps=num_steps, eta=eta)


def simulated_pipeline(folder: Path) -> DDIMPipeline:
    with execution("simulated"):
        return DDIMPipeline.from_pretrained(folder)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def change_config(folder: Path, alter: Alter) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    alter(config["quantization_config"])
    path.write_text(json.dumps(config))


def test_a_plain_pipeline_draws_the_bit_equal_images(original: Path) -> None:
    assert torch.equal(draw(simulated_pipeline(original)), expected(original))


def test_the_folder_opens_as_a_ddpm_pipeline(original: Path) -> None:
    with execution("simulated"):
        pipeline = DDPMPipeline.from_pretrained(original)
    loaded = checkpoint.load(original, device=CPU)
    assert torch.equal(predict(pipeline.unet), predict(loaded.denoiser.unet))


def test_the_folder_opens_as_a_model(original: Path) -> None:
    loaded = checkpoint.load(original, device=CPU)
    eps = predict(loaded.denoiser.unet)
    assert torch.equal(predict(simulated(original)), eps)
    assert torch.equal(predict(simulated(original, subfolder="unet")), eps)
    assert torch.equal(predict(simulated(original, device_map="cpu")), eps)


def test_nothing_is_reported_missing_or_left_over(original: Path) -> None:
    unet, info = simulated(original, output_loading_info=True)
    assert not any(info.values())
    assert not unet.training
    assert not any(parameter.requires_grad for parameter in unet.parameters())
    assert not any(tensor.is_meta for tensor in unet.state_dict().values())


def test_no_network_is_needed(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("loading reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert simulated_pipeline(original).unet.hf_quantizer.denoiser.num_timesteps == 1000


def test_a_saved_model_has_the_same_weight_file(original: Path, tmp_path: Path) -> None:
    unet = simulated(original)
    eps = predict(unet)
    unet.save_pretrained(tmp_path / "saved")
    assert sha256(tmp_path / "saved" / WEIGHTS) == sha256(original / WEIGHTS)
    assert torch.equal(predict(simulated(tmp_path / "saved")), eps)


def test_a_saved_pipeline_has_the_same_weight_file(
    original: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    pipeline = simulated_pipeline(original)
    pipeline.save_pretrained(saved)
    assert sha256(saved / "unet" / WEIGHTS) == sha256(original / WEIGHTS)
    assert torch.equal(draw(simulated_pipeline(saved)), draw(pipeline))
    eps = predict(pipeline.unet)
    assert torch.equal(predict(simulated(saved / "unet")), eps)
    assert torch.equal(predict(simulated(saved, subfolder="unet")), eps)


def test_a_model_can_be_saved_over_the_folder_that_it_came_from(folder: Path) -> None:
    unet = simulated(folder)
    before = sha256(folder / WEIGHTS)
    unet.save_pretrained(folder)
    assert sha256(folder / WEIGHTS) == before
    assert torch.equal(predict(simulated(folder)), predict(unet))


def test_shards_are_put_together(original: Path, tmp_path: Path) -> None:
    unet = simulated(original)
    unet.save_pretrained(tmp_path / "saved", max_shard_size="20KB")
    shards = sorted((tmp_path / "saved").glob("*-of-*.safetensors"))
    assert len(shards) > 1
    stored = load_file(original / WEIGHTS)
    again = {name: t for shard in shards for name, t in load_file(shard).items()}
    assert again.keys() == stored.keys()
    assert all(torch.equal(again[name], stored[name]) for name in stored)
    assert torch.equal(predict(simulated(tmp_path / "saved")), predict(unet))


def test_it_runs_on_integer_kernels_unless_told_otherwise(
    original: Path, tmp_path: Path
) -> None:
    unet = UNet2DModel.from_pretrained(original)
    found = unet.hf_quantizer.execution
    assert found.kind == "integer"
    assert found.integer_layers + len(found.simulated_layers) == len(
        checkpoint.read_manifest(original).structure.layers
    )
    reference = simulated(original)
    assert reference.hf_quantizer.execution.kind == "simulated"
    torch.testing.assert_close(predict(unet), predict(reference), rtol=0, atol=2e-2)
    unet.save_pretrained(tmp_path / "saved")
    assert sha256(tmp_path / "saved" / WEIGHTS) == sha256(original / WEIGHTS)


def test_the_first_call_decides_on_the_device(original: Path) -> None:
    unet = UNet2DModel.from_pretrained(original)
    eps = predict(unet)
    assert unet.hf_quantizer.execution.kind == "integer"
    assert torch.equal(predict(unet), eps)
    with pytest.raises(ModelUnsupported, match="prepared for cpu and is now on meta"):
        unet(torch.zeros(2, 3, 8, 8, device="meta"), 400)


def test_config_json_may_ask_for_simulated_execution(folder: Path) -> None:
    change_config(folder, lambda config: config.update(execution="simulated"))
    unet = UNet2DModel.from_pretrained(folder)
    assert unet.hf_quantizer.execution.kind == "simulated"
    assert torch.equal(predict(unet), predict(simulated(folder)))


def test_an_altered_code_is_refused(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    name = next(name for name in state if name.endswith(".weight_codes"))
    state[name][0] ^= 1
    save_file(state, folder / WEIGHTS, metadata=checkpoint.METADATA)
    with pytest.raises(CheckpointShapeMismatch, match="not the ones that config"):
        UNet2DModel.from_pretrained(folder)
    with pytest.raises(CheckpointShapeMismatch, match="not the ones that config"):
        DDIMPipeline.from_pretrained(folder)


def alter_softmax(config: dict[str, Any]) -> None:
    config["recipe"]["softmax_bits"] = 4


def alter_structure(config: dict[str, Any]) -> None:
    next(iter(config["structure"]["layers"].values()))["is_settled"] = True


@pytest.mark.parametrize("alter", [alter_softmax, alter_structure])
def test_an_altered_description_is_refused(folder: Path, alter: Alter) -> None:
    change_config(folder, alter)
    with pytest.raises(CheckpointShapeMismatch, match="not the ones that config"):
        UNet2DModel.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 4}, "schema version 4; this installation reads version 3"),
        ({"surprise": 1}, "malformed"),
        ({"execution": "guessed"}, "malformed"),
    ],
)
def test_an_unknown_description_is_refused(
    folder: Path, change: dict[str, object], message: str
) -> None:
    change_config(folder, lambda config: config.update(change))
    with pytest.raises(ModelUnsupported, match=message):
        UNet2DModel.from_pretrained(folder)


def test_pickles_are_neither_read_nor_written(folder: Path, tmp_path: Path) -> None:
    unet = simulated(folder)
    with pytest.raises(CheckpointUnsafe, match="safetensors only"):
        unet.save_pretrained(tmp_path / "saved", safe_serialization=False)
    state = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save(state, folder / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointUnsafe, match="not a safetensors file"):
        simulated(folder)
    with pytest.raises(OSError, match="safetensors"):
        simulated(folder, use_safetensors=True)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"torch_dtype": torch.float16}, "float32, not in torch.float16"),
        ({"device_map": {"conv_in": "cpu", "": "disk"}}, "one device"),
    ],
)
def test_what_would_run_differently_is_refused(
    original: Path, argument: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelUnsupported, match=message):
        simulated(original, **argument)


def test_diffusers_wants_low_cpu_mem_usage_for_quantized_models(original: Path) -> None:
    unet = simulated(original, low_cpu_mem_usage=True, torch_dtype=torch.float32)
    assert torch.equal(predict(unet), predict(simulated(original)))
    with pytest.raises(ValueError, match="low_cpu_mem_usage"):
        simulated(original, low_cpu_mem_usage=False)


def test_a_full_precision_model_is_not_quantized_on_the_way(
    original: Path, tiny_folder: Path
) -> None:
    config = json.loads((original / "config.json").read_text())["quantization_config"]
    with pytest.raises(ValueError, match="pre-quantized"):
        UNet2DModel.from_pretrained(
            tiny_folder, subfolder="unet", quantization_config=TCAQConfig(**config)
        )
    with pytest.raises(ModelUnsupported, match="not in a checkpoint"):
        simulated(original).dequantize()


def test_a_checkpoint_is_no_model_to_quantize(original: Path) -> None:
    with pytest.raises(ModelUnsupported, match="quantized already"):
        inspect_model_folder(original)


@pytest.mark.parametrize("ranges", ["step", "dynamic"])
def test_a_plain_pipeline_follows_trajectories(
    tiny_folder: Path, tmp_path: Path, ranges: Literal["step", "dynamic"]
) -> None:
    passes = (FitRanges(activation="min_max"), Modulate(ranges=ranges, num_samples=2))
    folder = write(tiny_folder, tmp_path / "c", *passes, bits=4)
    pipeline = simulated_pipeline(folder)
    assert differences_in(pipeline.unet)
    images = expected(folder)
    # Another run begins at a later timestep, so nothing is carried into it.
    assert torch.equal(draw(pipeline), images)
    assert torch.equal(draw(pipeline), images)


def test_a_plain_pipeline_corrects_but_keeps_its_full_variance(
    tiny_folder: Path, tmp_path: Path
) -> None:
    passes = (FitRanges(activation="min_max"), Correct(rule="ptqd", num_samples=4))
    folder = write(tiny_folder, tmp_path / "c", *passes, bits=4)
    pipeline = simulated_pipeline(folder)
    assert correction_of(pipeline.unet) is not None
    assert torch.equal(draw(pipeline), expected(folder))
    images = expected(folder, eta=1.0)
    assert not torch.equal(draw(pipeline, eta=1.0), images)
    with calibrated_variance(pipeline):
        assert torch.equal(draw(pipeline, eta=1.0), images)

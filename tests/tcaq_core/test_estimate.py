import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tcaq_core import calibration, checkpoint, signal_noise, workspace
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.diffusion import Pipeline, load_pipeline
from tcaq_core.errors import ModelNotFound
from tcaq_core.estimate import (
    BATCH,
    REPORT_INPUTS,
    WORKSPACE_BYTES,
    estimate,
    evaluations,
)
from tcaq_core.network import read_network
from tcaq_core.quantization import quantize
from tcaq_core.recipe import (
    DAQ,
    PAR,
    TCR,
    Allocate,
    CalibrationSpec,
    Correct,
    FitRanges,
    Method,
    Modulate,
    Pass,
    Split,
    Temporal,
    resolve,
)

DEMO = Path(__file__).parents[2] / "models" / "ddpm-cifar10-small"
SHORT = CalibrationSpec(num_samples=2, num_steps=2)
MIN_MAX = FitRanges(weight="min_max", activation="min_max")


@pytest.fixture(params=["tiny", "demo"])
def folder(request: pytest.FixtureRequest, tiny_folder: Path) -> Path:
    return tiny_folder if request.param == "tiny" else DEMO


@pytest.mark.parametrize(
    "passes", [(MIN_MAX,), (TCR(), MIN_MAX, DAQ())], ids=["ranges", "all grids"]
)
def test_the_estimated_bytes_are_those_of_the_checkpoint(
    folder: Path, passes: tuple[Pass, ...], tmp_path: Path
) -> None:
    recipe = resolve(
        Method(passes=passes, skip=("conv_in",)),
        weight_bits=3,
        activation_bits=8,
        calibration=SHORT,
    )
    pipeline = load_pipeline(folder, device=torch.device("cpu"))
    result = quantize(pipeline, recipe, progress=lambda *_: None)
    made = checkpoint.save(
        tmp_path / "c", pipeline, result.denoiser, recipe, model={}, environment={}
    )
    found = estimate(folder, recipe)
    assert found.denoiser_bytes == pytest.approx(made.denoiser_bytes, rel=0.02)
    assert found.float32_bytes == made.float32_bytes


@pytest.mark.parametrize(
    "passes",
    [
        (Split(), MIN_MAX),
        (TCR(layers="all"), MIN_MAX),
        (FitRanges(weight="min_max", activation="min_max", timesteps="step"),),
        (MIN_MAX, Temporal(maintenance="cache", iterations=2)),
        (MIN_MAX, Temporal(iterations=2), Modulate(ranges="dynamic")),
        (MIN_MAX, Modulate(), Correct(num_samples=2)),
    ],
    ids=lambda passes: "-".join(item.kind for item in passes),
)
def test_the_estimated_bytes_know_what_each_pass_stores(
    tiny_folder: Path, passes: tuple[Pass, ...], tmp_path: Path
) -> None:
    recipe = resolve(
        Method(passes=passes), weight_bits=4, activation_bits=8, calibration=SHORT
    )
    pipeline = load_pipeline(tiny_folder, device=torch.device("cpu"))
    result = quantize(pipeline, recipe, progress=lambda *_: None)
    made = checkpoint.save(
        tmp_path / "c", pipeline, result.denoiser, recipe, model={}, environment={}
    )
    assert estimate(tiny_folder, recipe).denoiser_bytes == made.denoiser_bytes


def test_mixed_precision_is_estimated_at_its_average_bits(tiny_folder: Path) -> None:
    found = {
        bits: estimate(
            tiny_folder,
            resolve(
                Method(passes=(Allocate(average_weight_bits=bits), MIN_MAX)),
                weight_bits=8,
                activation_bits=8,
            ),
        ).denoiser_bytes
        for bits in (3.0, 4.5, 8.0)
    }
    assert found[3.0] < found[4.5] < found[8.0]


@torch.no_grad()
def test_every_layer_runs_on_the_feature_maps_that_its_name_says(
    folder: Path,
) -> None:
    network = read_network(folder)
    pipeline = load_pipeline(folder, device=torch.device("cpu"))
    seen: dict[str, tuple[int, int]] = {}

    def watch(name: str, module: nn.Module) -> None:
        module.register_forward_hook(
            lambda _m, args, out: seen.update({name: (args[0].numel(), out.numel())})
        )

    for name, module in pipeline.denoiser.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            watch(name, module)
    pipeline.denoiser(torch.zeros(1, *pipeline.image_shape), torch.tensor([1]))
    assert set(seen) == set(network.layers)
    for name, (inputs, outputs) in seen.items():
        layer = network.layers[name]
        assert layer.outputs == outputs, name
        if "downsamplers" not in name:  # a pixel of padding comes on top there
            assert layer.inputs == inputs, name
    assert network.parameters == sum(p.numel() for p in pipeline.denoiser.parameters())
    heads = {a.heads for a in network.attentions.values()}
    expected = {
        module.heads
        for _, module in pipeline.denoiser.named_modules()
        if hasattr(module, "heads")
    }
    assert heads == expected


def test_the_blocks_are_those_of_reconstruction(pipeline: Pipeline) -> None:
    recipe = resolve(Method(passes=(MIN_MAX,)), weight_bits=4, activation_bits=8)
    denoiser = QuantizedDenoiser(pipeline.denoiser, recipe, num_timesteps=1000)
    folder = pipeline.files["model_index.json"].parent
    assert set(read_network(folder).blocks()) == set(denoiser.blocks())


def test_more_work_is_estimated_to_take_longer_and_more_memory() -> None:
    found = {
        name: estimate(DEMO, resolve(name, weight_bits=4, activation_bits=8))
        for name in ("rtn", "tcaq", "tcaq-paper")
    }
    rtn, tcaq, paper = found["rtn"], found["tcaq"], found["tcaq-paper"]
    assert rtn.seconds < tcaq.seconds < paper.seconds
    assert rtn.peak_memory_bytes <= tcaq.peak_memory_bytes <= paper.peak_memory_bytes


def test_a_faster_machine_is_estimated_to_be_faster() -> None:
    recipe = resolve("tcaq", weight_bits=4, activation_bits=8)
    slow, fast = (estimate(DEMO, recipe, rate=rate) for rate in (1e9, 1e12))
    assert slow.stage_seconds["par"] == pytest.approx(1000 * fast.stage_seconds["par"])
    assert slow.denoiser_bytes == fast.denoiser_bytes
    assert sum(slow.stage_seconds.values()) == pytest.approx(slow.seconds)


def test_the_stages_are_those_of_a_job() -> None:
    recipe = resolve(
        Method(passes=(TCR(), MIN_MAX, PAR())), weight_bits=4, activation_bits=8
    )
    stages = ["fetch", "calibrate", "tcr", "fit_ranges", "par", "save", "verify"]
    assert list(evaluations(recipe)) == stages
    assert list(estimate(DEMO, recipe).stage_seconds) == stages


def test_the_constants_that_torch_code_owns_are_its_own() -> None:
    assert WORKSPACE_BYTES == workspace.DEFAULT_BUDGET_BYTES
    assert BATCH == calibration.BATCH_SIZE
    assert REPORT_INPUTS == signal_noise.NUM_INPUTS


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    recipe = resolve("rtn", weight_bits=4, activation_bits=8)
    with pytest.raises(ModelNotFound):
        estimate(tmp_path / "none", recipe)


def test_estimating_does_not_import_torch() -> None:
    code = "import sys, tcaq_core.estimate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

from pathlib import Path

import pytest
import torch

from benchmarks.sampling_models import save_cifar10_35m
from tcaq_core import checkpoint
from tcaq_core.diffusion import load_pipeline
from tcaq_core.network import read_network
from tcaq_core.quantization import quantize
from tcaq_core.recipe import (
    DAQ,
    PRESETS,
    TCR,
    ActivationBits,
    CalibrationSpec,
    FitRanges,
    Method,
    SecondOrder,
    Split,
    resolve,
)
from tcaq_core.stored import stored_bytes

DEMO = Path(__file__).parents[2] / "models" / "ddpm-cifar10-small"
# What is claimed of 4-bit weights, everything in the file included: 0.125 of float32
# are the codes alone.
CLAIM = 0.14


@pytest.fixture(scope="module", params=["demo", "35m"])
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    if request.param == "demo":
        return DEMO
    return save_cifar10_35m(tmp_path_factory.mktemp("models") / "cifar10-35m")


@pytest.mark.parametrize("activation_bits", [8, 4])
@pytest.mark.parametrize("recipe", ["standard", "best"])
def test_four_bit_weights_take_a_seventh_of_float32(
    model: Path, recipe: str, activation_bits: ActivationBits
) -> None:
    network = read_network(model)
    made = resolve(recipe, weight_bits=4, activation_bits=activation_bits)
    assert 0.125 < stored_bytes(network, made) / (4 * network.parameters) <= CLAIM


def test_a_real_file_of_standards_tensors_keeps_the_claim(tmp_path: Path) -> None:
    method = PRESETS["standard"](4, 4)
    # As many steps as `standard` has, each with grids of its own.
    spec = CalibrationSpec(num_samples=1)
    # Quicker searches: they decide what is in the tensors, not how large those are.
    quick = (
        Split(),
        TCR(num_groups=1),
        FitRanges(weight="min_max", activation="min_max", timesteps="step"),
        DAQ(grids=("uniform", "log2")),
        SecondOrder(num_inputs=4),
    )
    assert [p.kind for p in quick] == [p.kind for p in method.passes]
    recipe = resolve(
        Method(passes=quick, skip=method.skip),
        weight_bits=4,
        activation_bits=4,
        calibration=spec,
    )
    pipeline = load_pipeline(DEMO, device=torch.device("cpu"))
    result = quantize(pipeline, recipe, progress=lambda *_: None)
    out = tmp_path / "checkpoint"
    made = checkpoint.save(
        out, pipeline, result.denoiser, recipe, model={}, environment={}
    )
    stored = (out / checkpoint.WEIGHTS).stat().st_size
    standard = resolve("standard", weight_bits=4, activation_bits=4)
    assert stored == stored_bytes(read_network(DEMO), standard)
    assert made.float32_bytes == 18_546_444
    assert stored / made.float32_bytes <= CLAIM
    # And so does the whole folder, manifest and configuration included.
    whole = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    assert whole / made.float32_bytes <= CLAIM

from pathlib import Path
from typing import Any

import pytest
import torch

from tcaq_core import checkpoint
from tcaq_core.diffusion import load_pipeline
from tcaq_core.environment import describe_environment
from tcaq_core.quantization import quantize
from tcaq_core.recipe import ORDER, PRESETS, Method, Pass, resolve
from tests.tcaq_core.conftest import SPEC

CPU = torch.device("cpu")
# The same passes on a budget for a tiny model: this is about what runs, not how well.
SHORT: dict[str, dict[str, Any]] = {
    "allocate": {"candidates": (3, 8), "steps": (), "num_inputs": 4},
    "temporal": {"iterations": 2},
    "second_order": {"num_inputs": 8},
    "par": {
        "iterations": 2,
        "round_iterations": 1,
        "rounds": 0,
        "range_iterations": 1,
        "num_inputs": 8,
    },
    "modulate": {"num_samples": 2},
    "correct": {"num_samples": 2},
}


def shortened(method: Method) -> Method:
    def short(item: Pass) -> dict[str, Any]:
        known = {k: v for k, v in SHORT.get(item.kind, {}).items() if hasattr(item, k)}
        return item.model_dump() | known

    passes = [short(item) for item in method.passes]
    return Method.model_validate(method.model_dump() | {"passes": passes})


@pytest.mark.parametrize("preset", [p for p in PRESETS if p != "tcaq-paper"])
def test_every_preset_ends_in_a_checkpoint_that_reloads_bit_equal(
    preset: str, tiny_folder: Path, tmp_path: Path
) -> None:
    recipe = resolve(
        shortened(PRESETS[preset](4, 8)),
        weight_bits=4,
        activation_bits=8,
        calibration=SPEC,
    )
    pipeline = load_pipeline(tiny_folder, device=CPU)
    result = quantize(pipeline, recipe, progress=lambda *_: None)
    checkpoint.save(
        tmp_path / "c",
        pipeline,
        result.denoiser,
        recipe,
        model={"reference": "tiny"},
        environment=dict(describe_environment(CPU)),
    )
    expected = checkpoint.probe(pipeline, result.denoiser)
    loaded = checkpoint.load(tmp_path / "c", device=CPU)
    assert checkpoint.probe(loaded.pipeline, loaded.denoiser) == expected


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_says_what_it_is_in_one_line(preset: str) -> None:
    text = PRESETS[preset].__doc__
    assert text is not None
    assert "\n" not in text
    assert text.endswith(".")


def test_every_pass_is_used_by_some_preset() -> None:
    used = {item.kind for make in PRESETS.values() for item in make(4, 8).passes}
    assert used == set(ORDER)

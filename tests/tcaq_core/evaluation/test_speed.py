from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tcaq_core import checkpoint, quantization
from tcaq_core.checkpoint import Checkpoint
from tcaq_core.diffusion import Pipeline, load_pipeline
from tcaq_core.errors import Interrupted
from tcaq_core.evaluation.speed import ROUNDS, measure, measure_checkpoint
from tcaq_core.recipe import (
    CalibrationSpec,
    FitRanges,
    Method,
    Modulate,
    Temporal,
    resolve,
)

CPU = torch.device("cpu")


def _nothing(_done: int, _total: int) -> None:
    pass


def _counting(calls: list[str], name: str) -> Callable[[], object]:
    return lambda: calls.append(name)


def test_every_round_gives_each_engine_its_turn() -> None:
    calls: list[str] = []
    forwards = {name: _counting(calls, name) for name in ("a", "b")}
    timings = measure(forwards, rounds=3)
    # One untimed call each, then the rounds.
    assert calls == ["a", "b"] * 4
    for timing in timings.values():
        assert timing.rounds == 3
        assert 0 < timing.p50 <= timing.p95


def test_rounds_end_when_the_time_is_up_but_there_is_one() -> None:
    calls: list[str] = []
    timings = measure({"a": _counting(calls, "a")}, rounds=50, seconds=0)
    assert calls == ["a", "a"]
    assert timings["a"].rounds == 1


def test_no_round_is_no_measurement() -> None:
    with pytest.raises(ValueError, match="0 rounds"):
        measure({}, rounds=0)


def test_progress_counts_rounds_and_can_stop_them() -> None:
    seen = []

    def stop_in_the_second(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 1:
            raise Interrupted("stop", hint="none")

    with pytest.raises(Interrupted):
        measure({"a": lambda: None}, rounds=4, tick=stop_in_the_second)
    assert seen == [(0, 4), (0, 4), (1, 4)]


RANGES = FitRanges(weight="min_max", activation="min_max")
METHODS = {
    "grids": Method(passes=(RANGES,)),
    "memory": Method(passes=(RANGES, Modulate(num_samples=2))),
    "cached features": Method(
        passes=(RANGES, Temporal(maintenance="cache", iterations=2))
    ),
}


@pytest.fixture(params=METHODS)
def loaded(
    request: pytest.FixtureRequest, pipeline: Pipeline, tmp_path: Path
) -> Checkpoint:
    """Return a reloaded checkpoint that one of the methods made."""
    recipe = resolve(
        METHODS[request.param],
        weight_bits=8,
        activation_bits=8,
        calibration=CalibrationSpec(num_samples=2, num_steps=4),
    )
    quantized = quantization.quantize(pipeline, recipe, progress=lambda *_: None)
    folder = tmp_path / "checkpoint"
    checkpoint.save(
        folder, pipeline, quantized.denoiser, recipe, model={}, environment={}
    )
    return checkpoint.load(folder, device=CPU)


def test_a_checkpoint_is_measured_beside_its_model(
    loaded: Checkpoint, tiny_folder: Path
) -> None:
    model = load_pipeline(tiny_folder, device=CPU)
    before = {k: v.clone() for k, v in model.denoiser.state_dict().items()}
    measured = measure_checkpoint(model, loaded, seconds=0.5, tick=_nothing)
    assert 0 <= measured.relative_error < 0.1
    found = measured.benchmark
    assert found is not None
    quantized = measured.execution.kind
    assert list(found.engines) == ["float32", "bfloat16", quantized]
    assert 1 <= found.batch_size <= 8
    assert 1 <= found.rounds <= ROUNDS
    for engine in found.engines.values():
        assert 0 < engine.p50_seconds_per_image <= engine.p95_seconds_per_image
        assert engine.peak_memory_bytes > 0
    half, whole = found.engines["bfloat16"], found.engines["float32"]
    assert half.peak_memory_bytes < whole.peak_memory_bytes
    medians = {name: e.p50_seconds_per_image for name, e in found.engines.items()}
    for name in ("float32", "bfloat16"):
        expected = medians[name] / medians[quantized]
        assert found.speedup[f"over_{name}"] == pytest.approx(expected)
    assert "CPU" in found.peak_memory
    _is_unchanged(model.denoiser.state_dict(), before)


def _is_unchanged(now: dict[str, Tensor], before: dict[str, Tensor]) -> None:
    assert all(torch.equal(now[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("loaded", ["grids"], indirect=True)
@pytest.mark.parametrize("seconds", [0, 1e-9])
def test_without_time_nothing_is_timed_but_the_execution_is_known(
    loaded: Checkpoint, tiny_folder: Path, seconds: float
) -> None:
    model = load_pipeline(tiny_folder, device=CPU)
    measured = measure_checkpoint(model, loaded, seconds=seconds, tick=_nothing)
    assert measured.benchmark is None
    assert measured.execution.kernels

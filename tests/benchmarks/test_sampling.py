import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.sampling_engines import build
from benchmarks.sampling_kernels import KernelTime, KernelTimes
from benchmarks.sampling_models import (
    NUM_STEPS,
    QUICK,
    cifar10_35m,
    quantize_quickly,
)
from benchmarks.sampling_openvino import convert_for_openvino, import_openvino
from benchmarks.sampling_peak import Peak, own_peak
from benchmarks.sampling_rows import Runner, _quartiles, make_row, measure
from benchmarks.sampling_workload import (
    BFLOAT16,
    FLOAT32,
    INT8,
    OPENVINO,
    Engine,
    EngineUnavailable,
    Workload,
)
from tcaq_core.evaluation.paired import relative_mse
from tcaq_core.recipe import PRESETS
from tests.tiny import save_tiny_pipeline

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
KEYS = {
    *("engine", "model", "weight_bits", "activation_bits", "batch"),
    *("seconds_per_forward", "peak_bytes", "weight_bytes"),
}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.sampling", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("models") / "tiny")


def test_engines_and_bits_have_a_row_each_with_time_and_bytes(tiny: Path) -> None:
    engines = f"{FLOAT32},{BFLOAT16},{INT8}"
    done = run(
        *("--model", tiny, "--engines", engines, "--bits", "W8A8,W4A4"),
        *("--batch", "2", "--rounds", "3", "--threads", "1", "--json", "--kernels"),
    )
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    assert [(row["engine"], row["weight_bits"]) for row in rows] == [
        *((FLOAT32, 32), (BFLOAT16, 16), (INT8, 8), (INT8, 4))
    ]
    for row in rows:
        assert set(row) >= KEYS
        assert (row["model"], row["batch"], row["threads"]) == ("tiny", 2, 1)
        assert 0 < row["seconds_per_forward"] < 10
        assert row["weight_bytes"] < row["peak_bytes"] <= row["load_peak_bytes"]
        assert row["speedup"][FLOAT32][0] == pytest.approx(
            rows[0]["seconds_per_forward"] / row["seconds_per_forward"]
        )
    exact, half, eight, four = rows
    # 4 and 2 bytes a parameter; packed codes are smaller than both.
    assert exact["weight_bytes"] == 2 * half["weight_bytes"]
    assert four["weight_bytes"] < eight["weight_bytes"] < half["weight_bytes"]
    # All compute the same function: bfloat16 has 8 bits, the checkpoints their own.
    assert exact["relative_error"] == 0
    assert 0 < half["relative_error"] < 0.03
    assert 0 < eight["relative_error"] < 0.1 < four["relative_error"] < 1
    for row in (eight, four):
        kernels = row["kernels"]
        assert kernels["operations"] > 1e6
        assert {item["kind"] for item in kernels["kernels"]} >= {"conv", "linear"}
        assert 0 < sum(item["seconds"] for item in kernels["kernels"]) < 10
    assert "kernels" not in exact


def test_an_engine_that_cannot_run_is_left_out_and_the_table_says_why(
    tiny: Path,
) -> None:
    # A package of that name that is not there: what a plain installation has.
    program = (
        "import runpy, sys; sys.modules['openvino'] = None; "
        f"sys.argv[1:] = ['--model', {str(tiny)!r}, '--batch', '1', '--rounds', '2', "
        f"'--threads', '1', '--engines', '{FLOAT32},openvino-bfloat16']; "
        "runpy.run_module('benchmarks.sampling', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "openvino-bfloat16: left out. OpenVINO is not installed" in done.stdout
    assert "pip install -c constraints.txt -e '.[bench]'" in done.stdout
    assert done.stdout.count(FLOAT32) == 1


def test_openvino_is_given_the_same_function(tiny: Path, tmp_path: Path) -> None:
    try:
        openvino = import_openvino(CPU)
    except EngineUnavailable as error:
        pytest.skip(str(error))
    work = Workload(tiny, batch=2, device=CPU, threads=1, seed=0)
    file = convert_for_openvino(work, tmp_path / "model.xml")
    exact = build(FLOAT32, work)
    x_t = work.noise(exact.shape)
    # In float32, what is left is the rounding of its stored weights to float16.
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(file, "CPU", hints)
    with torch.no_grad():
        for t in work.timesteps():
            found = torch.from_numpy(compiled([x_t.numpy(), t.numpy()])[0])
            assert relative_mse(found, exact.forward(x_t, t)) < 0.005**2
    half = build(OPENVINO, replace(work, intermediate=file))
    assert half.note.startswith("products in ")
    assert half.weight_bytes < 0.6 * exact.weight_bytes
    # And in bfloat16 that of a time embedding's angles, up to t = 750 radians.
    found = half.forward(x_t, work.timesteps()[0])
    with torch.no_grad():
        assert relative_mse(found, exact.forward(x_t, work.timesteps()[0])) < 0.15**2


def test_a_checkpoint_of_another_model_is_refused(tiny: Path, tmp_path: Path) -> None:
    made = quantize_quickly(tiny, tmp_path / "c", (8, 8), device=CPU, seed=0)
    done = run("--engines", INT8, "--checkpoint", made, "--rounds", "1")
    assert done.returncode == 1
    assert "Name the checkpoint's own model with --model" in done.stderr
    done = run("--engines", "nope")
    assert done.returncode == 2
    assert "tcaq-int8" in done.stderr


def test_loading_never_takes_less_than_running(tiny: Path) -> None:
    work = Workload(tiny, batch=4, device=CPU, threads=1, seed=0)
    found = own_peak(FLOAT32, work)
    assert found.load_peak_bytes >= found.peak_bytes


def test_ratios_are_of_medians_and_their_spread_is_within_rounds(tiny: Path) -> None:
    work = Workload(tiny, batch=1, device=CPU, threads=1, seed=0)
    eps = torch.ones(1)

    def runner(name: str, seconds: list[float]) -> Runner:
        engine = Engine(name, 8, 8, lambda x, _: x, torch.float32, (3, 8, 8), 1, "")
        return Runner(engine, work, eps, seconds)

    slow = runner(FLOAT32, [2.0, 4.0, 6.0])
    fast = runner(INT8, [1.0, 1.0, 2.0])
    row = make_row(fast, [slow, fast], Peak(5, 7))
    assert row.seconds_per_forward == 1.0
    assert row.speedup == {FLOAT32: (4.0, 2.5, 3.5)}
    assert (row.peak_bytes, row.load_peak_bytes) == (5, 7)
    assert _quartiles([3.0]) == (3.0, 3.0)
    assert [int(t) for t in work.timesteps()] == [750, 500, 250, 0]
    assert len(work.timesteps()) == NUM_STEPS


def test_every_engine_has_its_turn_in_every_round(tiny: Path) -> None:
    work = Workload(tiny, batch=1, device=CPU, threads=1, seed=0)
    calls: list[tuple[str, int]] = []

    def runner(name: str) -> Runner:
        def forward(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            calls.append((name, int(t)))
            return x_t

        engine = Engine(name, 8, 8, forward, torch.float32, (3, 8, 8), 1, "")
        return Runner(engine, work, torch.ones(1))

    both = [runner("a"), runner("b")]
    measure(both, rounds=2)
    # An untimed forward at the timestep before, then the timed one.
    assert calls == [
        *(("a", 0), ("a", 750), ("b", 0), ("b", 750)),
        *(("a", 750), ("a", 500), ("b", 750), ("b", 500)),
    ]
    assert [len(item.seconds) for item in both] == [2, 2]


def test_kernels_of_one_kind_add_up() -> None:
    times = KernelTimes(
        [
            KernelTime("conv", "a", 2, 100, 3.0),
            KernelTime("linear", "b", 1, 10, 0.5),
            KernelTime("quantize", "c", 1, 0, 0.25),
        ],
        forward_seconds=7.0,
        operations=110,
        peak_operations_per_second=None,
    )
    assert times.seconds_of("conv", "linear") == 3.5
    assert times.seconds_of("attention") == 0


def test_the_35m_model_is_ddpms_and_the_quick_recipe_has_standards_layers() -> None:
    unet = cifar10_35m()
    assert sum(p.numel() for p in unet.parameters()) == 35_746_307
    again = cifar10_35m()
    assert torch.equal(unet.conv_in.weight, again.conv_in.weight)
    assert QUICK.skip == PRESETS["standard"](4, 8).skip

"""The kernels compiled for NVIDIA's processors: needs Triton, but no GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

PROGRAM = Path(__file__).with_name("compile_kernels.py")
# What a kernel may use of one multiprocessor's memory, in bytes.
SHARED_MEMORY = {"80": 163 * 1024, "90": 227 * 1024}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    # Interpreted here, compiled there: Triton decides it once in a process.
    environment = dict(os.environ) | {
        "PYTHONPATH": str(PROGRAM.parents[3]),
        "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")),
    }
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *SHARED_MEMORY],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return report


def test_products_of_hopper_run_on_int8_tensor_cores(
    compiled: dict[str, dict[str, Any]],
) -> None:
    for name, kernel in compiled["90"].items():
        if name.startswith("int8_"):
            assert any(".s32.s8.s8" in product for product in kernel["products"]), name
    large = compiled["90"]["int8_convolution_128x128x128"]["products"]
    assert large == ["wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8"]


def test_products_of_ampere_run_on_int8_tensor_cores(
    compiled: dict[str, dict[str, Any]],
) -> None:
    for name, kernel in compiled["80"].items():
        if name.startswith("int8_"):
            assert any("s32.s8.s8.s32" in product for product in kernel["products"])


def test_no_multiplication_is_fused_with_an_addition(
    compiled: dict[str, dict[str, Any]],
) -> None:
    for kernels in compiled.values():
        assert {kernel["contracted"] for kernel in kernels.values()} == {0}


def test_every_kernel_fits_and_moves_16_bytes_at_a_time(
    compiled: dict[str, dict[str, Any]],
) -> None:
    for capability, kernels in compiled.items():
        for name, kernel in kernels.items():
            assert kernel["shared"] <= SHARED_MEMORY[capability], name
            assert any(".v4.b32" in vector for vector in kernel["vectors"]), name

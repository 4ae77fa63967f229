"""Attention of codes where signed integer products are not exact."""

import subprocess
import sys

import pytest

CODE = """
import torch
from tcaq_core.runtime.cpu import OnednnKernels
from tcaq_core.runtime.cpu_attention import products_are_exact
from tcaq_core.runtime.eager import EagerKernels
from tcaq_core.runtime.kernels import Grid, SoftmaxGrid
from tcaq_core.runtime.native import load_native

torch.manual_seed(0)
q, k, v = torch.randint(0, 256, (3, 2, 36, 64), dtype=torch.uint8)
zero = torch.tensor(128, dtype=torch.int32)
grids = (Grid(torch.tensor(0.01), zero, 255),) * 3
for log_step in (0.0, 0.5):
    scale = torch.tensor(1.0 if log_step else 1 / 255)
    softmax = SoftmaxGrid(scale, torch.tensor(log_step), 8)
    ours, theirs = (
        kernels.attention(q, k, v, grids, softmax, heads=1, scale=0.125)
        for kernels in (OnednnKernels(load_native()), EagerKernels())
    )
    off = (ours - theirs).abs() > 1e-5 * theirs.abs().max()
    print(products_are_exact(), bool(off.float().mean() < 0.02))
"""


@pytest.mark.parametrize("isa", ["AVX512_CORE", "AVX2"])
def test_attention_is_right_where_signed_products_saturate(isa: str) -> None:
    """oneDNN is told to do as older processors do: 16-bit sums of pairs."""
    answer = subprocess.run(
        [sys.executable, "-c", CODE],
        env={"ONEDNN_MAX_CPU_ISA": isa, "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.split() == ["False", "True"] * 2

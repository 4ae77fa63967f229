from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tcaq_core.diffusion import load_pipeline
from tcaq_core.quantization import quantize
from tcaq_core.recipe import DAQ, TCR, FitRanges, Method, resolve
from tcaq_core.runtime.integer import compile_integer
from tcaq_core.runtime.kernels import Geometry, Norm, SoftmaxGrid
from tests.tcaq_core.conftest import SPEC

pytest.importorskip("triton")

from tcaq_core.runtime.cuda import TritonKernels
from tests.tcaq_core.runtime.triton_reference import (
    DEVICE,
    EAGER,
    TRITON,
    grid_of,
    images,
    on_device,
    product,
    random_codes,
    random_weight,
)

# The interpreter is numpy, which warns where a result is meant to be infinite.
pytestmark = pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_product_comes_out_in_the_type_of_activations(
    dtype: torch.dtype, generator: torch.Generator
) -> None:
    codes = random_codes(1, 8, 3, 3, num_bits=8, generator=generator)
    weight = random_weight(4, 8, 3, 3, generator=generator)
    scale = torch.rand(4, generator=generator)
    still = Geometry((1, 1), (1, 1), (1, 1))
    layer = (codes, grid_of(0.02, 3, 8), weight, scale)
    exact = product(TRITON, *layer, geometry=still)
    found = product(TritonKernels(dtype=dtype), *layer, geometry=still)
    assert found.dtype == dtype
    # The interpreter cuts bfloat16 off where a GPU rounds it.
    unit = torch.finfo(dtype).eps
    assert bool(((found - exact).abs() <= unit * exact.abs()).all())


class _NoAnswers(TorchDispatchMode):
    """Refuses to read a tensor's number on the host, as capturing a graph does."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: Any = (),  # noqa: ANN401
        kwargs: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_no_kernel_reads_a_number_back(generator: torch.Generator) -> None:
    x = on_device(images(torch.randn(1, 8, 4, 4, generator=generator)))
    grid = on_device(grid_of(0.02, 120, 8))
    norm = on_device(Norm(torch.ones(8), torch.zeros(8), 4, 1e-5))
    weight = on_device(random_weight(8, 8, 1, 1, generator=generator))
    ones = on_device(torch.ones(8))
    softmax = on_device(SoftmaxGrid(torch.tensor(1.0), torch.tensor(1.0), 4))
    with pytest.raises(AssertionError), _NoAnswers():
        float(grid.scale)
    with _NoAnswers():
        still = Geometry((1, 1), (0, 0), (1, 1))
        codes = TRITON.quantize((x,), grid)
        TRITON.conv(codes, grid, TRITON.pack(weight, ones, geometry=still))
        codes = TRITON.norm_quantize((x,), norm, grid, shift=ones[None])
        rows = codes.permute(0, 2, 3, 1).flatten(1, 2)
        flat = TRITON.pack(weight.flatten(1), ones, geometry=None)
        TRITON.linear(rows[0], grid, flat, bias=ones)
        grids = (grid, grid, grid)
        TRITON.attention(rows, rows, rows, grids, softmax, heads=2, scale=0.5)


def test_three_sources_are_refused() -> None:
    x = on_device(torch.zeros(1, 2, 2, 2))
    with pytest.raises(ValueError, match="3 sources"):
        TRITON.quantize((x, x, x), on_device(grid_of(1.0, 0, 8)))


def test_a_denoiser_predicts_what_it_predicts_on_the_reference(
    tiny_folder: Path,
) -> None:
    predictions = []
    for kernels, device in ((EAGER, torch.device("cpu")), (TRITON, DEVICE)):
        pipeline = load_pipeline(tiny_folder, device=torch.device("cpu"))
        method = Method(passes=(TCR(), FitRanges(), DAQ()))
        recipe = resolve(method, weight_bits=4, activation_bits=8, calibration=SPEC)
        denoiser = quantize(pipeline, recipe, progress=lambda *_: None).denoiser
        denoiser.unet.to(device)
        execution = compile_integer(denoiser, kernels=kernels)
        assert execution.kernels == kernels.name
        assert execution.integer_layers > 40
        x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            eps = denoiser(x.to(device), torch.tensor([700], device=device))
        predictions.append(eps.cpu())
    expected, found = predictions
    # A code that falls the other way at a tie is all that may differ.
    assert float((found - expected).abs().mean()) < 1e-3
    assert float(expected.abs().mean()) > 0.1

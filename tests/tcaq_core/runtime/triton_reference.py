"""The Triton kernels beside the reference: on a GPU, or in Triton's interpreter.

The reference runs on the CPU always, where float32 sums of these sizes are exact.
"""

from typing import Any

import torch
from torch import Tensor

from tcaq_core.runtime.cuda import TritonKernels
from tcaq_core.runtime.eager import EagerKernels
from tcaq_core.runtime.kernels import Geometry, Grid, Kernels, Norm, SoftmaxGrid

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
EAGER = EagerKernels()
TRITON = TritonKernels()


def on_device(value: Any) -> Any:  # noqa: ANN401  (tensors, grids, tuples of both)
    match value:
        case Tensor():
            return value.to(DEVICE)
        case tuple():
            return tuple(map(on_device, value))
        case Grid():
            return make_grid(value.scale, value.zero_point, value.top)
        case Norm():
            weight, bias = value.weight.to(DEVICE), value.bias.to(DEVICE)
            return Norm(weight, bias, value.groups, value.eps)
        case SoftmaxGrid():
            scale, log_step = value.scale.to(DEVICE), value.log_step.to(DEVICE)
            return SoftmaxGrid(scale, log_step, value.num_bits)
        case _:
            return value


def make_grid(scale: Tensor, zero_point: Tensor, top: int) -> Grid:
    # A cell of a table: the kernels must not count on its address.
    cells = torch.stack([torch.zeros_like(scale), scale]).to(DEVICE)
    zeros = torch.stack([zero_point, zero_point, zero_point]).to(DEVICE)
    return Grid(cells[1], zeros[2], top)


def grid_of(scale: float, zero_point: int, num_bits: int) -> Grid:
    zero = torch.tensor(zero_point, dtype=torch.int32)
    return Grid(torch.tensor(scale), zero, 2**num_bits - 1)


def softmax_of(scale: float, log_step: float, num_bits: int) -> SoftmaxGrid:
    return SoftmaxGrid(torch.tensor(scale), torch.tensor(log_step), num_bits)


def images(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def random_codes(*shape: int, num_bits: int, generator: torch.Generator) -> Tensor:
    codes = torch.randint(0, 2**num_bits, shape, generator=generator)
    codes = codes.to(torch.uint8)
    return images(codes) if codes.ndim == 4 else codes


def random_weight(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randint(-128, 128, shape, generator=generator).to(torch.int8)


def product(
    kernels: Kernels,
    codes: Tensor,
    grid: Grid,
    weight: Tensor,
    scale: Tensor,
    *,
    geometry: Geometry | None,
    bias: Tensor | None = None,
    add: Tensor | None = None,
) -> Tensor:
    """Return a convolution or, without geometry, a matrix product."""
    if kernels is not EAGER:
        codes, grid, weight, scale = on_device((codes, grid, weight, scale))
        bias, add = on_device((bias, add))
    packed = kernels.pack(weight, scale, geometry=geometry)
    run = kernels.linear if geometry is None else kernels.conv
    return run(codes, grid, packed, bias=bias, add=add)


def both(method: str, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Return the reference's answer and the kernels', both on the CPU."""
    expected: Tensor = getattr(EAGER, method)(*args, **options)
    moved = {name: on_device(value) for name, value in options.items()}
    found: Tensor = getattr(TRITON, method)(*on_device(args), **moved)
    return expected, found.cpu()


def assert_nearest(codes: Tensor, exact: Tensor, grid: Grid) -> None:
    """Check codes against numbers in double: only a tie may go either way."""
    scale = grid.scale.double().cpu()
    places = (exact / scale + grid.zero_point.cpu()).clamp(0, grid.top)
    assert float((codes.double() - places).abs().max()) < 0.5 + 1e-3


def silu(x: Tensor) -> Tensor:
    return torch.nn.functional.silu(x)

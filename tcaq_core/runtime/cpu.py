"""The CPU backend: products by oneDNN in int8, what lies between them compiled (csrc/).

oneDNN multiplies uint8 codes by int8 weights and adds in int32, exactly, where the
processor has VNNI or AMX; `is_exact` asks the processor itself. Its results come out
as float32, times one scale a channel, plus the bias and an addend.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int8, UInt8
from torch import Tensor

from tcaq_core.runtime.cpu_attention import attend
from tcaq_core.runtime.cpu_conv import OnednnConv
from tcaq_core.runtime.eager import EagerKernels
from tcaq_core.runtime.kernels import (
    Geometry,
    Grid,
    Kernels,
    Norm,
    Packed,
    SoftmaxGrid,
    Sources,
)
from tcaq_core.runtime.native import Native

# The operators are registered by torch's own build; there are no Python functions.
_ops: Any = torch.ops.onednn


@dataclass(frozen=True)
class OnednnWeight(Packed):
    """A linear layer's weight in oneDNN's blocked layout."""

    weight: Any
    """An opaque tensor."""
    zero_points: Tensor
    """int32 zeros (D,): weights are codes minus zero point already."""


@dataclass(frozen=True)
class OnednnKernel(Packed):
    """A convolution's weight."""

    conv: OnednnConv


class OnednnKernels(Kernels):
    """Integer products by oneDNN; `native` is the compiled glue, if it was built."""

    name: ClassVar[str] = "onednn-int8"

    def __init__(self, native: Native | None) -> None:
        super().__init__(dtype=torch.float32)
        self._native = native
        self._eager = EagerKernels()

    def pack(
        self,
        weight: Int8[Tensor, "D C *K"],
        scale: Float[Tensor, "D"],
        *,
        geometry: Geometry | None,
    ) -> OnednnWeight | OnednnKernel:
        """Reorder a weight as oneDNN wants it."""
        scale = scale.contiguous()
        if geometry is not None:
            return OnednnKernel(geometry, scale, OnednnConv(weight, scale, geometry))
        zeros = torch.zeros(weight.shape[0], dtype=torch.int32)
        packed = _ops.qlinear_prepack(weight.contiguous(), None)
        return OnednnWeight(None, scale, packed, zeros)

    def conv(
        self,
        codes: UInt8[Tensor, "N C H W"],
        grid: Grid,
        packed: Packed,
        *,
        bias: Float[Tensor, "D"] | None = None,
        add: Float[Tensor, "N D I J"] | None = None,
    ) -> Float[Tensor, "N D I J"]:
        """Return the convolution, as `Kernels.conv`."""
        assert isinstance(packed, OnednnKernel)  # noqa: S101
        scale, zero_point = _scalars(grid)
        out = packed.conv(codes, scale=scale, zero_point=zero_point, bias=bias)
        return out if add is None else out.add_(add)

    def linear(
        self,
        codes: UInt8[Tensor, "M C"],
        grid: Grid,
        packed: Packed,
        *,
        bias: Float[Tensor, "D"] | None = None,
        add: Float[Tensor, "M D"] | None = None,
    ) -> Float[Tensor, "M D"]:
        """Return the product, as `Kernels.linear`."""
        assert isinstance(packed, OnednnWeight)  # noqa: S101
        out: Tensor = _ops.qlinear_pointwise(
            codes,
            *_scalars(grid),
            packed.weight,
            packed.scale,
            packed.zero_points,
            bias,
            *(1.0, 0, torch.float32, "none", [], ""),
        )
        return out if add is None else out.add_(add)

    def quantize(
        self,
        x: Sources,
        grid: Grid,
        *,
        reciprocal: Float[Tensor, "C"] | None = None,
    ) -> UInt8[Tensor, "N C *S"]:
        """Return codes, as `Kernels.quantize`."""
        if self._native is None:
            return self._eager.quantize(x, grid, reciprocal=reciprocal)
        return self._native.quantize(x, grid, reciprocal=reciprocal)

    def norm_quantize(
        self,
        x: Sources,
        norm: Norm,
        grid: Grid,
        *,
        shift: Float[Tensor, "N C"] | None = None,
        reciprocal: Float[Tensor, "C"] | None = None,
        silu: bool = False,
    ) -> UInt8[Tensor, "N C H W"]:
        """Return codes, as `Kernels.norm_quantize`."""
        glue = self._eager if self._native is None else self._native
        return glue.norm_quantize(
            x, norm, grid, shift=shift, reciprocal=reciprocal, silu=silu
        )

    def attention(
        self,
        q: UInt8[Tensor, "N L C"],
        k: UInt8[Tensor, "N L C"],
        v: UInt8[Tensor, "N L C"],
        grids: tuple[Grid, Grid, Grid],
        softmax: SoftmaxGrid,
        *,
        heads: int,
        scale: float,
    ) -> Float[Tensor, "N L C"]:
        """Return the mixed values, as `Kernels.attention`."""
        if self._native is None:
            return self._eager.attention(
                q, k, v, grids, softmax, heads=heads, scale=scale
            )
        return attend(self._native, (q, k, v), grids, softmax, heads=heads, scale=scale)


@cache
def is_exact(*, top: int, peak: int) -> bool:
    """Return whether this processor adds up codes <= top times |weights| <= peak.

    Without VNNI, pairs of uint8 x int8 products are added in 16 bits, and the largest
    ones do not fit. Asked of the kernels that will run, not of a list of processors.
    """
    kernels = OnednnKernels(None)
    grid = Grid(torch.tensor(1.0), torch.tensor(0, dtype=torch.int32), top)
    ones, still = torch.ones(32), Geometry((1, 1), (0, 0), (1, 1))
    weight = torch.full((32, 32, 3, 3), -peak, dtype=torch.int8)
    exact = -float(top * peak * 32 * 9)
    # A large and a small image: two kernels (cpu_conv.py); the small one's is linear's.
    for side in (20, 4):
        codes = torch.full((1, 32, side, side), top, dtype=torch.uint8)
        codes = codes.contiguous(memory_format=torch.channels_last)
        out = kernels.conv(codes, grid, kernels.pack(weight, ones, geometry=still))
        if not bool((out == exact).all()):
            return False
    return True


def _scalars(grid: Grid) -> tuple[float, int]:
    return float(grid.scale), int(grid.zero_point)

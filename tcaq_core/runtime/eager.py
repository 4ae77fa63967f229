"""The kernels in plain torch, on any device: exact but slow.

What a processor without integer instructions runs, and what the fast backends are
tested against. Codes and weights are small integers held as floats.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int8, UInt8
from torch import Tensor
from torch.nn import functional as nnf

from tcaq_core.functional import AffineParams, dequantize, quantize
from tcaq_core.quantizers import softmax_grid
from tcaq_core.runtime.kernels import (
    Geometry,
    Grid,
    Kernels,
    Norm,
    Packed,
    SoftmaxGrid,
    Sources,
)


@dataclass(frozen=True)
class EagerWeight(Packed):
    """The integer weight, held as floats."""

    weight: Float[Tensor, "D C *K"]


class EagerKernels(Kernels):
    """Float arithmetic on integer values."""

    name: ClassVar[str] = "eager-float32"

    def pack(
        self,
        weight: Int8[Tensor, "D C *K"],
        scale: Float[Tensor, "D"],
        *,
        geometry: Geometry | None,
    ) -> EagerWeight:
        """Hold the weight as floats."""
        return EagerWeight(geometry, scale, weight.float())

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
        assert isinstance(packed, EagerWeight) and packed.geometry  # noqa: S101, PT018
        move = packed.geometry
        out = nnf.conv2d(
            codes.float() - grid.zero_point,
            packed.weight,
            None,
            move.stride,
            move.padding,
            move.dilation,
        )
        out = out * (grid.scale * packed.scale)[:, None, None]
        if bias is not None:
            out = out + bias[:, None, None]
        return (out if add is None else out + add).to(self.dtype)

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
        assert isinstance(packed, EagerWeight)  # noqa: S101
        out = nnf.linear(codes.float() - grid.zero_point, packed.weight)
        out = out * (grid.scale * packed.scale)
        if bias is not None:
            out = out + bias
        return (out if add is None else out + add).to(self.dtype)

    def quantize(
        self,
        x: Sources,
        grid: Grid,
        *,
        reciprocal: Float[Tensor, "C"] | None = None,
    ) -> UInt8[Tensor, "N C *S"]:
        """Return codes, as `Kernels.quantize`."""
        return _codes(_joined(x), grid, reciprocal=reciprocal, silu=False)

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
        joined = _joined(x)
        if shift is not None:
            joined = joined + shift[:, :, None, None]
        normal = nnf.group_norm(joined, norm.groups, norm.weight, norm.bias, norm.eps)
        return _codes(normal, grid, reciprocal=reciprocal, silu=silu)

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
        q_hat, k_hat, v_hat = (
            dequantize(codes, AffineParams(grid.scale, grid.zero_point.float()))
            .unflatten(-1, (heads, -1))
            .transpose(1, 2)
            for codes, grid in zip((q, k, v), grids, strict=True)
        )
        logits = torch.matmul(q_hat, k_hat.transpose(-1, -2)) * scale
        attention = softmax_grid(
            torch.softmax(logits, dim=-1),
            softmax.scale,
            log_step=float(softmax.log_step),
            num_bits=softmax.num_bits,
        )
        mixed = torch.matmul(attention, v_hat)
        return mixed.transpose(1, 2).flatten(2).to(self.dtype)


def _joined(x: Sources) -> Tensor:
    return x[0].float() if len(x) == 1 else torch.cat(x, dim=1).float()


def _codes(
    x: Tensor, grid: Grid, *, reciprocal: Tensor | None, silu: bool
) -> UInt8[Tensor, "..."]:
    if silu:
        x = nnf.silu(x)
    if reciprocal is not None:
        x = x * (reciprocal if x.ndim == 2 else reciprocal[:, None, None])
    params = AffineParams(grid.scale, grid.zero_point.float())
    num_bits = (grid.top + 1).bit_length() - 1
    codes = quantize(x, params, num_bits=num_bits).to(torch.uint8)
    if codes.ndim == 4:
        codes = codes.contiguous(memory_format=torch.channels_last)
    return codes

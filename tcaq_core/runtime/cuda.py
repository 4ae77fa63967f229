"""The CUDA backend: every product and every code by a Triton kernel of this package.

Nothing here waits for the device or reads a number back, so that a forward can be
captured in a CUDA graph (cuda_graph.py). On CPU tensors the same kernels run in
Triton's interpreter, where the environment turns it on; that is for tests.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int, Int8, UInt8
from torch import Tensor

from tcaq_core.runtime.kernels import (
    Geometry,
    Grid,
    Kernels,
    Norm,
    Packed,
    SoftmaxGrid,
    Sources,
)
from tcaq_core.runtime.triton_launch import attend, normalize_codes, write_codes
from tcaq_core.runtime.triton_matmul import Sizes, convolve


@dataclass(frozen=True)
class TritonWeight(Packed):
    """The integer weight, each output's numbers in the order they are multiplied."""

    weight: Int8[Tensor, "D *KC"]
    """(D, kh, kw, C), or (D, C)."""
    sums: Int[Tensor, "D"]
    """int32, what 128 - zero_point in every code would add."""


class TritonKernels(Kernels):
    """Integer products on int8 tensor cores, with everything around them fused."""

    name: ClassVar[str] = "triton-int8"

    def pack(
        self,
        weight: Int8[Tensor, "D C *K"],
        scale: Float[Tensor, "D"],
        *,
        geometry: Geometry | None,
    ) -> TritonWeight:
        """Bring the channels to the end and add each output's integers up."""
        sums = weight.flatten(1).sum(dim=1, dtype=torch.int32)
        laid_out = weight.movedim(1, -1).contiguous()
        return TritonWeight(geometry, scale.float().contiguous(), laid_out, sums)

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
        assert isinstance(packed, TritonWeight) and packed.geometry  # noqa: S101, PT018
        outputs, *kernel, channels = packed.weight.shape
        batch, _, *size = codes.shape
        move = packed.geometry
        out_height, out_width = (
            (size[i] + 2 * move.padding[i] - move.dilation[i] * (kernel[i] - 1) - 1)
            // move.stride[i]
            + 1
            for i in (0, 1)
        )
        sizes = Sizes(
            rows=batch * out_height * out_width,
            channels=channels,
            outputs=outputs,
            height=size[0],
            width=size[1],
            out_height=out_height,
            out_width=out_width,
            stride=move.stride,
            padding=move.padding,
            dilation=move.dilation,
            kernel=(kernel[0], kernel[1]),
        )
        out = torch.empty(
            (batch, outputs, out_height, out_width),
            dtype=self.dtype,
            device=codes.device,
            memory_format=torch.channels_last,
        )
        addend = None if add is None else _images(add)
        _multiply(_images(codes), grid, packed, out, sizes=sizes, bias=bias, add=addend)
        return out

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
        assert isinstance(packed, TritonWeight)  # noqa: S101
        outputs, channels = packed.weight.shape
        rows = codes.shape[0]
        sizes = Sizes(rows=rows, channels=channels, outputs=outputs)
        out = codes.new_empty((rows, outputs), dtype=self.dtype)
        addend = None if add is None else add.contiguous()
        _multiply(
            codes.contiguous(), grid, packed, out, sizes=sizes, bias=bias, add=addend
        )
        return out

    def quantize(
        self,
        x: Sources | tuple[Float[Tensor, "M C"]],
        grid: Grid,
        *,
        reciprocal: Float[Tensor, "C"] | None = None,
    ) -> UInt8[Tensor, "..."]:
        """Return codes, as `Kernels.quantize`.

        Raises:
            ValueError: more than two sources.
        """
        sources = _sources(x)
        out = _codes_like(sources)
        write_codes(sources, out, grid, reciprocal=reciprocal)
        return out

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
        """Return codes, as `Kernels.norm_quantize`.

        Raises:
            ValueError: more than two sources.
        """
        sources = _sources(x)
        out = _codes_like(sources)
        normalize_codes(
            sources,
            out,
            norm,
            grid,
            shift=None if shift is None else shift.contiguous(),
            reciprocal=reciprocal,
            silu=silu,
        )
        return out

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
        """Return the mixed values, as `Kernels.attention`.

        Raises:
            ValueError: a softmax map of more than 8 bits.
        """
        if softmax.num_bits > 8:
            raise ValueError(
                f"a softmax map of {softmax.num_bits} bits on int8 kernels"
            )
        out = torch.empty(q.shape, dtype=self.dtype, device=q.device)
        operands = (q.contiguous(), k.contiguous(), v.contiguous())
        attend(operands, out, grids, softmax, heads=heads, scale=scale)
        return out


def _multiply(
    codes: Tensor,
    grid: Grid,
    packed: TritonWeight,
    out: Tensor,
    *,
    sizes: Sizes,
    bias: Tensor | None,
    add: Tensor | None,
) -> None:
    convolve(
        codes,
        packed.weight,
        out,
        bias=bias,
        add=add,
        scale=grid.scale,
        zero_point=grid.zero_point,
        weight_scale=packed.scale,
        weight_sum=packed.sums,
        sizes=sizes,
    )


def _images(x: Tensor) -> Tensor:
    """Return images in channels-last memory: themselves, if they are already."""
    return x.contiguous(memory_format=torch.channels_last)


def _sources(x: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    if len(x) not in (1, 2):
        raise ValueError(f"{len(x)} sources; the kernels read one or two")
    return tuple(_images(part) if part.ndim == 4 else part.contiguous() for part in x)


def _codes_like(sources: tuple[Tensor, ...]) -> Tensor:
    batch, _, *size = sources[0].shape
    channels = sum(source.shape[1] for source in sources)
    layout = torch.channels_last if size else torch.contiguous_format
    return torch.empty(
        (batch, channels, *size),
        dtype=torch.uint8,
        device=sources[0].device,
        memory_format=layout,
    )

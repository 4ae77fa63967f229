"""What integer execution needs of a processor: one class a backend, one meaning.

Activations are channels-last (N, C, H, W) tensors of `Kernels.dtype`, codes are uint8
of the same layout. A code means what `tcaq_core.functional` says, operation for
operation, so that every backend finds the same codes in the same numbers.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int, Int8, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """A uniform activation grid: x_hat = (q - zero_point) * scale, 0 <= q <= top."""

    scale: Float[Tensor, ""]
    zero_point: Int[Tensor, ""]
    """int32, on the same device."""
    top: int


@dataclass(frozen=True)
class Geometry:
    """How a convolution's kernel moves; zero padding means the zero point."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]


@dataclass(frozen=True)
class Norm:
    """A group normalisation over (channels / groups, H, W)."""

    weight: Float[Tensor, "C"]
    bias: Float[Tensor, "C"]
    groups: int
    eps: float


@dataclass(frozen=True)
class SoftmaxGrid:
    """The grid of a post-softmax map: uniform from zero, or powers of 2^log_step."""

    scale: Float[Tensor, ""]
    """The step of a uniform grid, the largest value of a logarithmic one."""
    log_step: Float[Tensor, ""]
    """Zero for a uniform grid; see `SoftmaxQuantizer`."""
    num_bits: int


@dataclass(frozen=True)
class Packed:
    """A weight as one backend wants it; subclasses add what they keep."""

    geometry: Geometry | None
    """None: a linear layer."""
    scale: Float[Tensor, "D"]


Sources = tuple[Float[Tensor, "N _ *S"], ...]
"""Tensors that stand for their concatenation along the channels, never made."""


class Kernels(ABC):
    """Integer kernels of one backend; all of them exact in the integers.

    A result is the exact integer sum times one float32 scale a channel, plus the
    bias: within float32 rounding of the simulated layer.
    """

    name: ClassVar[str]
    """What a response calls this execution, e.g. ``onednn-int8``."""

    def __init__(self, *, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        """The type of activations between layers; float32 is what equality means."""

    @abstractmethod
    def pack(
        self,
        weight: Int8[Tensor, "D C *K"],
        scale: Float[Tensor, "D"],
        *,
        geometry: Geometry | None,
    ) -> Packed:
        """Prepare a weight, codes minus zero point (ADR 10), once."""

    @abstractmethod
    def conv(
        self,
        codes: UInt8[Tensor, "N C H W"],
        grid: Grid,
        packed: Packed,
        *,
        bias: Float[Tensor, "D"] | None = None,
        add: Float[Tensor, "N D I J"] | None = None,
    ) -> Float[Tensor, "N D I J"]:
        """Return the convolution of (codes - zero_point) * scale, + bias, + add.

        `add` is left as it is.
        """

    @abstractmethod
    def linear(
        self,
        codes: UInt8[Tensor, "M C"],
        grid: Grid,
        packed: Packed,
        *,
        bias: Float[Tensor, "D"] | None = None,
        add: Float[Tensor, "M D"] | None = None,
    ) -> Float[Tensor, "M D"]:
        """Return (codes - zero_point) * scale times the transposed weight, + both."""

    @abstractmethod
    def quantize(
        self,
        x: Sources,
        grid: Grid,
        *,
        reciprocal: Float[Tensor, "C"] | None = None,
    ) -> UInt8[Tensor, "N C *S"]:
        """Return the codes of x * reciprocal (1 / r of TCR) on one grid.

        Also takes one source of two dimensions (M, C).
        """

    @abstractmethod
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
        """Return `quantize` of the group normalisation of x + shift."""

    @abstractmethod
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
        """Return Q(softmax(scale * q k^T)) v, all operands on their grids.

        The C channels are `heads` consecutive pieces.
        """

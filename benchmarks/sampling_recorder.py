"""Integer kernels that remember what a forward gave them, to be repeated alone."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from tcaq_core.runtime.kernels import Grid, Kernels, Packed, SoftmaxGrid, Sources


@dataclass(frozen=True)
class Call:
    """One kernel call of a forward."""

    kind: str
    what: str
    """Shapes, readable."""
    operations: int
    """Two for each multiplication; zero where no codes are multiplied."""
    run: Callable[[], Tensor]


@dataclass
class Recorder(Kernels):
    """Kernels that remember what they were given while `is_recording`."""

    name: ClassVar[str] = "recorded"
    inner: Kernels
    is_recording: bool = False
    calls: list[Call] = field(default_factory=list)
    shapes: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take the type of activations over."""
        super().__init__(dtype=self.inner.dtype)

    def pack(self, weight: Tensor, scale: Tensor, **geometry: Any) -> Packed:  # noqa: ANN401
        """Pack, and remember the weight's shape."""
        packed = self.inner.pack(weight, scale, **geometry)
        self.shapes[id(packed)] = tuple(weight.shape)
        return packed

    def conv(
        self,
        codes: Tensor,
        grid: Grid,
        packed: Packed,
        *,
        bias: Tensor | None = None,
        add: Tensor | None = None,
    ) -> Tensor:
        """Return and record a convolution."""
        out = self.inner.conv(codes, grid, packed, bias=bias, add=add)
        alone = partial(self.inner.conv, codes, grid, packed, bias=bias)
        self._record_product("conv", codes, packed, out, alone)
        return out

    def linear(
        self,
        codes: Tensor,
        grid: Grid,
        packed: Packed,
        *,
        bias: Tensor | None = None,
        add: Tensor | None = None,
    ) -> Tensor:
        """Return and record a linear product."""
        out = self.inner.linear(codes, grid, packed, bias=bias, add=add)
        alone = partial(self.inner.linear, codes, grid, packed, bias=bias)
        self._record_product("linear", codes, packed, out, alone)
        return out

    def quantize(self, x: Sources, grid: Grid, **options: Any) -> Tensor:  # noqa: ANN401
        """Return and record codes."""
        call = partial(self.inner.quantize, x, grid, **options)
        return self._recorded("quantize", _shapes(*x), 0, call)

    def norm_quantize(self, x: Sources, *grids: Any, **options: Any) -> Tensor:  # noqa: ANN401
        """Return and record codes of a normalisation."""
        call = partial(self.inner.norm_quantize, x, *grids, **options)
        return self._recorded("norm_quantize", _shapes(*x), 0, call)

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        grids: tuple[Grid, Grid, Grid],
        softmax: SoftmaxGrid,
        **options: Any,  # noqa: ANN401
    ) -> Tensor:
        """Return and record attention."""
        call = partial(self.inner.attention, q, k, v, grids, softmax, **options)
        operations = 2 * 2 * q.numel() * k.shape[1]
        return self._recorded("attention", _shapes(q), operations, call)

    def _record_product(
        self,
        kind: str,
        codes: Tensor,
        packed: Packed,
        out: Tensor,
        alone: Callable[[], Tensor],
    ) -> None:
        if self.is_recording:
            shape = self.shapes[id(packed)]
            operations = 2 * out.numel() * math.prod(shape[1:])
            what = f"{_shapes(codes)} by {'x'.join(map(str, shape))}"
            self.calls.append(Call(kind, what, operations, alone))

    def _recorded(
        self, kind: str, what: str, operations: int, call: Callable[[], Tensor]
    ) -> Tensor:
        if self.is_recording:
            self.calls.append(Call(kind, what, operations, call))
        return call()


def _shapes(*tensors: Tensor) -> str:
    return " + ".join("x".join(map(str, tensor.shape)) for tensor in tensors)

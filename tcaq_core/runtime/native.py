"""The compiled part of the CPU kernels (csrc/), called on tensors.

It is built when the project is installed. Without a compiler there is none: the same
functions then run in plain torch, slower, and whoever asks is told why.
"""

import ctypes
import importlib.util
from collections.abc import Sequence
from functools import cache
from typing import Final

import torch
from jaxtyping import Float, Int, Int8, UInt8
from torch import Tensor

from tcaq_core.runtime.kernels import Grid, Norm, SoftmaxGrid, Sources
from tcaq_core.runtime.products import Centred, FloatScores, Products

ABI: Final = 3
MODULE: Final = "tcaq_core.runtime._native"

_POINTER, _LONG, _FLOAT, _INT = (
    ctypes.c_void_p,
    ctypes.c_long,
    ctypes.c_float,
    ctypes.c_int,
)
_CODE_GRID: Final = (_FLOAT, _FLOAT, _FLOAT)
_SIGNATURES: Final[dict[str, Sequence[type]]] = {
    "tcaq_norm_quantize": (
        *(_POINTER, _LONG, _POINTER, _LONG, _LONG, _LONG),
        *(_POINTER, _POINTER, _POINTER, _LONG, _FLOAT, _POINTER, _INT),
        *(*_CODE_GRID, _POINTER),
    ),
    "tcaq_quantize": (
        *(_POINTER, _LONG, _POINTER, _LONG, _LONG, _POINTER),
        *(*_CODE_GRID, _POINTER),
    ),
    "tcaq_center": (_POINTER, *[_LONG] * 4, *[_POINTER] * 3),
    "tcaq_softmax": (
        *(_POINTER, _POINTER, _LONG, _LONG, _LONG, _POINTER, _POINTER),
        *(_INT, _INT, _INT, _FLOAT, _FLOAT, _FLOAT, _POINTER, _FLOAT),
        *[_POINTER] * 3,
    ),
    "tcaq_rescale": (
        *(_POINTER, *[_LONG] * 4, _POINTER, _POINTER),
        *(_INT, _INT, _INT, _FLOAT, _POINTER),
    ),
}


class NativeMissing(RuntimeError):
    """The compiled library is not there or is of another version; the text says."""


class Native:
    """The functions of csrc/ on CPU tensors of float32, channels-last."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        for name, arguments in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, None

    def norm_quantize(
        self,
        x: Sources,
        norm: Norm,
        grid: Grid,
        *,
        shift: Float[Tensor, "N C"] | None,
        reciprocal: Float[Tensor, "C"] | None,
        silu: bool,
    ) -> UInt8[Tensor, "N C H W"]:
        """Return codes, as `Kernels.norm_quantize`, of one or two sources."""
        first, second = x if len(x) == 2 else (x[0], None)
        n, _, height, width = first.shape
        channels = first.shape[1] + (0 if second is None else second.shape[1])
        out = torch.empty(
            (n, channels, height, width),
            dtype=torch.uint8,
            memory_format=torch.channels_last,
        )
        self._library.tcaq_norm_quantize(
            _pointer(first),
            first.shape[1],
            _pointer(second),
            0 if second is None else second.shape[1],
            n,
            height * width,
            _pointer(shift),
            _pointer(norm.weight),
            _pointer(norm.bias),
            norm.groups,
            norm.eps,
            _pointer(reciprocal),
            silu,
            *_constants(grid),
            out.data_ptr(),
        )
        return out

    def quantize(
        self,
        x: Sources,
        grid: Grid,
        *,
        reciprocal: Float[Tensor, "C"] | None,
    ) -> UInt8[Tensor, "N C *S"]:
        """Return codes, as `Kernels.quantize`, of one or two sources."""
        first, second = x if len(x) == 2 else (x[0], None)
        other = 0 if second is None else second.shape[1]
        n, channels, *size = first.shape
        out = torch.empty(
            (n, channels + other, *size),
            dtype=torch.uint8,
            memory_format=torch.channels_last if size else torch.contiguous_format,
        )
        self._library.tcaq_quantize(
            _pointer(first),
            channels,
            _pointer(second),
            other,
            first.numel() // channels,
            _pointer(reciprocal),
            *_constants(grid),
            out.data_ptr(),
        )
        return out

    def center(self, codes: UInt8[Tensor, "N L C"], *, heads: int) -> Centred:
        """Return codes minus 128 by head, with their sums."""
        n, length, channels = codes.shape
        depth = channels // heads
        values = torch.empty((n, heads, length, depth), dtype=torch.int8)
        over_depth = torch.empty((n, heads, length), dtype=torch.int32)
        over_length = torch.empty((n, heads, depth), dtype=torch.int32)
        self._library.tcaq_center(
            codes.data_ptr(),
            *(n, length, heads, depth),
            *(values.data_ptr(), over_depth.data_ptr(), over_length.data_ptr()),
        )
        return Centred(values, over_depth, over_length)

    def softmax_codes(
        self, scores: Products, grid: SoftmaxGrid
    ) -> tuple[Int8[Tensor, "N heads L L"], Int[Tensor, "N heads L"]]:
        """Return the codes minus 128 of the map, on a uniform grid, and row sums."""
        codes = torch.empty(scores.sums.shape, dtype=torch.int8)
        sums = torch.empty(scores.sums.shape[:3], dtype=torch.int32)
        self._softmax(scores, grid, codes=codes, code_sums=sums)
        return codes, sums

    def softmax_values(
        self, scores: Products | FloatScores, grid: SoftmaxGrid
    ) -> Float[Tensor, "N heads L L"]:
        """Return the map: codes of a uniform grid, values of a logarithmic one."""
        values = torch.empty(scores.sums.shape)
        self._softmax(scores, grid, values=values)
        return values

    def rescale(self, products: Products) -> Float[Tensor, "N L C"]:
        """Return what integer products (N, heads, L, depth) stand for, heads joined."""
        n, heads, length, depth = products.sums.shape
        out = torch.empty((n, length, heads * depth))
        self._library.tcaq_rescale(
            products.sums.data_ptr(),
            *(n, length, heads, depth),
            *_missing_terms(products),
            products.factor,
            out.data_ptr(),
        )
        return out

    def _softmax(
        self,
        scores: Products | FloatScores,
        grid: SoftmaxGrid,
        *,
        codes: Tensor | None = None,
        code_sums: Tensor | None = None,
        values: Tensor | None = None,
    ) -> None:
        n, heads, rows, columns = scores.sums.shape
        is_integer = isinstance(scores, Products)
        log_step = float(grid.log_step)
        table = None if log_step == 0 else log_values(grid)
        self._library.tcaq_softmax(
            None if is_integer else scores.sums.data_ptr(),
            scores.sums.data_ptr() if is_integer else None,
            *(n * heads, rows, columns),
            *_missing_terms(scores),
            scores.factor,
            float(grid.scale.reciprocal()),
            float(2**grid.num_bits - 1),
            None if table is None else table.data_ptr(),
            0.0 if table is None else float(torch.tensor(1 / log_step)),
            *(None if x is None else x.data_ptr() for x in (codes, code_sums, values)),
        )


def log_values(grid: SoftmaxGrid) -> Float[Tensor, "Q"]:
    """Return what the codes 0, 1, ... of a logarithmic grid stand for, then a zero."""
    code = torch.arange(2**grid.num_bits)
    values = grid.scale * torch.exp2(-code * float(grid.log_step))
    return torch.cat([values, torch.zeros(1)])


def _missing_terms(
    scores: Products | FloatScores,
) -> tuple[int | None, int | None, int, int, int]:
    if isinstance(scores, FloatScores):
        return None, None, 0, 0, 0
    sums = (scores.row_sums.data_ptr(), scores.column_sums.data_ptr())
    return *sums, scores.row_factor, scores.column_factor, scores.constant


@cache
def load_native() -> Native:
    """Return the compiled library.

    Raises:
        NativeMissing: not built, or built from another version of the source.
    """
    found = importlib.util.find_spec(MODULE)
    if found is None or found.origin is None:
        raise NativeMissing("the compiled kernels were not built at installation")
    try:
        library = ctypes.CDLL(found.origin)
        abi = int(library.tcaq_abi())
    except (OSError, AttributeError) as error:
        raise NativeMissing(f"the compiled kernels do not load: {error}") from error
    if abi != ABI:
        raise NativeMissing("the compiled kernels are of another version: reinstall")
    return Native(library)


def _constants(grid: Grid) -> tuple[float, float, float]:
    return (
        float(grid.scale.reciprocal()),
        float(grid.zero_point),
        float(grid.top),
    )


def _pointer(x: Tensor | None) -> int | None:
    if x is None:
        return None
    layout = torch.channels_last if x.ndim == 4 else torch.contiguous_format
    # A wrong layout would be read as wrong numbers, not refused.
    if x.dtype != torch.float32 or not x.is_contiguous(memory_format=layout):
        raise ValueError(f"a {x.dtype} tensor with strides {x.stride()}")
    return x.data_ptr()

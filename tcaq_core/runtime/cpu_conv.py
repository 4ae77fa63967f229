"""Convolution by oneDNN in int8: directly, or as a product with the image's windows.

oneDNN's convolution reads the whole weight for every image of a batch. Where images are
small that reading is all the time it takes: a product of all windows of the batch with
the weight reads it once, and is two to three times as fast at 4 x 4 and 8 x 8 pixels
(docs/results.md). A convolution of 1 x 1 is such a product as it stands.
"""

from typing import Any, Final

import torch
from jaxtyping import Float, Int8, UInt8
from torch import Tensor

from tcaq_core.runtime.kernels import Geometry

# The operators are registered by torch's own build; there are no Python functions.
_ops: Any = torch.ops.onednn

WINDOWED: Final = 256
"""Output pixels of one image up to which the product of windows is faster."""


class OnednnConv:
    """One convolution, packed in the form that its first image asks for.

    Both forms are exact for images of any size; a later size only runs in the form
    that is there, so that the weight is kept once.
    """

    def __init__(
        self,
        weight: Int8[Tensor, "D C I J"],
        scale: Float[Tensor, "D"],
        geometry: Geometry,
    ) -> None:
        self.geometry = geometry
        self.kernel = (weight.shape[2], weight.shape[3])
        self.scale = scale
        self.zero_points = torch.zeros(weight.shape[0], dtype=torch.int32)
        self._integers: Tensor | None = weight
        self._direct: Any = None
        self._windowed: Any = None

    def __call__(
        self,
        codes: UInt8[Tensor, "N C H W"],
        *,
        scale: float,
        zero_point: int,
        bias: Float[Tensor, "D"] | None,
    ) -> Float[Tensor, "N D I J"]:
        """Return the convolution of (codes - zero_point) * scale, plus the bias."""
        height, width = (self._out(codes.shape[2 + i], i) for i in (0, 1))
        self._prepare(height * width)
        constants = (self.scale, self.zero_points, bias)
        if self._windowed is None:
            move = self.geometry
            out: Tensor = _ops.qconv2d_pointwise(
                *(codes, scale, zero_point, self._direct, *constants),
                *(move.stride, move.padding, move.dilation),
                *(1, 1.0, 0, torch.float32, "none", [], ""),
            )
            return out
        rows: Tensor = _ops.qlinear_pointwise(
            self._windows(codes, zero_point, height, width),
            *(scale, zero_point, self._windowed, *constants),
            *(1.0, 0, torch.float32, "none", [], ""),
        )
        return rows.view(len(codes), height, width, -1).permute(0, 3, 1, 2)

    def _prepare(self, pixels: int) -> None:
        weight, move = self._integers, self.geometry
        if weight is None:
            return
        self._integers = None
        is_point = self.kernel == (1, 1) and move.padding == (0, 0)
        if move.dilation == (1, 1) and (is_point or pixels <= WINDOWED):
            by_window = weight.permute(0, 2, 3, 1).flatten(1)
            self._windowed = _ops.qlinear_prepack(by_window.contiguous(), None)
        else:
            laid_out = weight.contiguous(memory_format=torch.channels_last)
            places = (move.stride, move.padding, move.dilation)
            self._direct = _ops.qconv_prepack(
                laid_out, self.scale, 1.0, 0, *places, 1, None
            )

    def _windows(
        self, codes: UInt8[Tensor, "N C H W"], zero_point: int, rows: int, columns: int
    ) -> UInt8[Tensor, "M K"]:
        """Return each output pixel's window, zero padding as the zero point."""
        n, channels, height, width = codes.shape
        (down, right), (top, left) = self.geometry.stride, self.geometry.padding
        pixels = codes.permute(0, 2, 3, 1)
        if top or left:
            size = (n, height + 2 * top, width + 2 * left, channels)
            padded = codes.new_full(size, zero_point)
            padded[:, top : top + height, left : left + width] = pixels
            pixels = padded
        pixels = pixels.contiguous()
        image, line, pixel, _ = pixels.stride()
        windows = pixels.as_strided(
            (n, rows, columns, self.kernel[0], self.kernel[1] * channels),
            (image, down * line, right * pixel, line, 1),
        )
        return windows.reshape(n * rows * columns, -1)

    def _out(self, size: int, axis: int) -> int:
        move = self.geometry
        reach = move.dilation[axis] * (self.kernel[axis] - 1) + 1
        return (size + 2 * move.padding[axis] - reach) // move.stride[axis] + 1

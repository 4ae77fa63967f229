"""Stand-ins for quantized layers: integer weights, a grid in front of each product."""

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn
from torch.onnx.ops import symbolic

from tcaq_core.integrations.onnx_modules import Moment, OnnxGrid
from tcaq_core.layers import QuantConv2d, QuantLayer
from tcaq_core.quantizers import UniformQuantizer

WEIGHT_CODES = "weight_codes"
"""The buffer that a weight's integers are in, and so their name in the file."""


class OnnxWeight(nn.Module):
    """The weight of one part: int8 codes minus zero point, a scale per output."""

    weight_codes: Num[Tensor, "..."]
    scale: Float[Tensor, "D"]

    def __init__(self, layer: QuantLayer, part: int) -> None:
        super().__init__()
        zero_point = layer.weight_zero_point[:, part].to(torch.int16)
        codes = layer.codes().split(layer.parts, dim=1)[part].to(torch.int16)
        codes = codes - zero_point.view(-1, *([1] * (codes.ndim - 1)))
        # MatMul takes (C, D), and a transposed weight would hide from its fusions.
        self.axis = 0 if codes.ndim == 4 else 1
        laid_out = codes if self.axis == 0 else codes.T
        self.register_buffer(WEIGHT_CODES, laid_out.to(torch.int8).contiguous())
        self.register_buffer("scale", layer.weight_scale[:, part].clone())

    def forward(self) -> Float[Tensor, "..."]:
        """Return the weight, (D, C, kh, kw) or (C, D)."""
        weight: Tensor = symbolic(
            "DequantizeLinear",
            (self.weight_codes, self.scale),
            {"axis": self.axis},
            dtype=torch.float32,
            shape=self.weight_codes.shape,
        )
        return weight


class OnnxLayer(nn.Module):
    """A quantized layer: per part Q/DQ of the input and DQ of the weight; their sum.

    The parts stay apart so that every product has one grid on each side, as integer
    kernels need it; a concatenation has none.
    """

    bias: Float[Tensor, "D"] | None
    reciprocal: Float[Tensor, "C *K"] | None

    def __init__(self, layer: QuantLayer, moment: Moment) -> None:
        super().__init__()
        bias = layer.bias if layer.bias_hat is None else layer.bias_hat
        reciprocal = None
        if layer.is_rescaled:
            shape = (-1, *([1] * layer.num_spatial))
            reciprocal = layer.input_rescale.reciprocal().view(shape)
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self.register_buffer("reciprocal", reciprocal)
        self.parts = layer.parts
        parts = range(len(layer.parts))
        self.weights = nn.ModuleList(OnnxWeight(layer, part) for part in parts)
        grid = layer.input_quantizer
        self.grids = nn.ModuleList(
            OnnxGrid(grid, part, moment)
            if isinstance(grid, UniformQuantizer) and grid.is_active
            else nn.Identity()
            for part in parts
        )
        self.convolution = (
            (layer.stride, layer.padding, layer.dilation)
            if isinstance(layer, QuantConv2d)
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        if self.reciprocal is not None:
            x = x * self.reciprocal
        pieces = x.split(self.parts, dim=1) if len(self.parts) > 1 else (x,)
        out: Tensor | None = None
        for piece, grid, weight in zip(pieces, self.grids, self.weights, strict=True):
            bias = self.bias if out is None else None
            product = self._product(grid(piece), weight(), bias)
            out = product if out is None else out + product
        assert out is not None  # noqa: S101  (a layer has at least one part)
        return out

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.convolution is not None:
            stride, padding, dilation = self.convolution
            return nn.functional.conv2d(x, weight, bias, stride, padding, dilation)
        out = torch.matmul(x, weight)
        return out if bias is None else out + bias

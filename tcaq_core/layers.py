"""THE place of quantized layers: convolution and linear, simulated execution.

The codes are the truth. Quantized execution always computes with dequantized codes,
so what is evaluated, saved, reloaded and run on integers is the same thing.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as nnf

from tcaq_core.functional import AffineParams, dequantize, weight_params
from tcaq_core.quantizers import (
    AdaRound,
    NotCalibrated,
    UniformQuantizer,
    nearest_codes,
)
from tcaq_core.recipe import LayerBits


class QuantLayer(nn.Module, ABC):
    """A layer y = W x + b whose weight and input can live on grids.

    With input factors r (TCR) it computes (W * r) (x / r) + b: the same function in
    full precision, a better conditioned one when quantized.
    """

    num_spatial: ClassVar[int]
    """Spatial dimensions of the kernel."""

    weight: Float[Tensor, "D C *K"] | None
    input_rescale: Float[Tensor, "C"]
    weight_codes: UInt8[Tensor, "D C *K"] | None
    weight_hat: Float[Tensor, "D C *K"] | None
    weight_scale: Float[Tensor, "D"]
    weight_zero_point: Float[Tensor, "D"]

    def __init__(self, weight: Tensor, bias: Tensor | None, bits: LayerBits) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("weight", weight.detach().clone())
        self.bias = (
            None
            if bias is None
            else nn.Parameter(bias.detach().clone(), requires_grad=False)
        )
        self.register_buffer("input_rescale", torch.ones(weight.shape[1]))
        self.register_buffer("weight_codes", None)
        self.register_buffer("weight_hat", None)
        self.register_buffer("weight_scale", torch.ones(weight.shape[0]))
        self.register_buffer("weight_zero_point", torch.zeros(weight.shape[0]))
        # 16 activation bits mean: leave the input as it is.
        self.input_quantizer = (
            UniformQuantizer(bits.activation_bits)
            if bits.activation_bits < 16
            else None
        )
        self.rounding: AdaRound | None = None
        self.is_rescaled = False
        self.is_active = False

    @abstractmethod
    def run(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return the layer's output for a given weight."""

    @property
    def weight_params(self) -> AffineParams:
        """The weight grid, shaped to broadcast against the weight (D, 1, ...)."""
        shape = (-1, 1, *([1] * self.num_spatial))
        return AffineParams(
            self.weight_scale.view(shape), self.weight_zero_point.view(shape)
        )

    def full_weight(self) -> Float[Tensor, "D C *K"]:
        """Return the full-precision weight, with TCR's factors multiplied in.

        Raises:
            NotCalibrated: loaded from a checkpoint, which holds codes only.
        """
        if self.weight is None:
            raise NotCalibrated("a reloaded layer has codes but no full weight")
        return self.weight

    def rescale_input(self, factor: Float[Tensor, "C"]) -> None:
        """Divide input channel j by factor_j and multiply its weights by it."""
        shape = (1, -1, *([1] * self.num_spatial))
        self.weight = self.full_weight() * factor.view(shape)
        self.input_rescale = self.input_rescale * factor
        self.is_rescaled = True

    def fit_weight(self, low: Float[Tensor, "D"], high: Float[Tensor, "D"]) -> None:
        """Set each output channel's grid and round the weight to nearest on it."""
        params = weight_params(low, high, num_bits=self.bits.weight_bits)
        self.weight_scale, self.weight_zero_point = params.scale, params.zero_point
        self.commit(
            nearest_codes(
                self.full_weight(),
                self.weight_params,
                num_bits=self.bits.weight_bits,
            )
        )

    def commit(self, codes: UInt8[Tensor, "D C *K"]) -> None:
        """Make these codes the layer's quantized weight and execute them."""
        self.weight_codes = codes
        self.weight_hat = dequantize(codes, self.weight_params)
        self.rounding = None
        self.is_active = True

    def codes(self) -> UInt8[Tensor, "D C *K"]:
        """Return the committed codes.

        Raises:
            NotCalibrated: nothing was committed yet.
        """
        if self.weight_codes is None:
            raise NotCalibrated("a layer has no codes yet")
        return self.weight_codes

    def load(
        self,
        codes: UInt8[Tensor, "D C *K"],
        *,
        scale: Float[Tensor, "D"],
        zero_point: Float[Tensor, "D"],
        input_rescale: Float[Tensor, "C"] | None,
    ) -> None:
        """Become the layer that a checkpoint holds; the full weight is dropped."""
        self.weight = None
        self.weight_scale, self.weight_zero_point = scale, zero_point
        if input_rescale is not None:
            self.input_rescale = input_rescale
            self.is_rescaled = True
        self.commit(codes)

    def open_rounding(self) -> AdaRound:
        """Replace the codes by soft rounding until the next `commit`."""
        self.rounding = AdaRound(
            self.full_weight(), self.weight_params, num_bits=self.bits.weight_bits
        )
        return self.rounding

    def normalize_input(self, x: Tensor) -> Tensor:
        """Return x / r: what the input quantizer sees."""
        if not self.is_rescaled:
            return x
        shape = (-1, *([1] * self.num_spatial))  # broadcasts against (N, C, H, W)
        return x * self.input_rescale.reciprocal().view(shape)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output, on quantized weights if the layer is active."""
        x = self.normalize_input(x)
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        return self.run(
            x, self._quantized_weight() if self.is_active else self.full_weight()
        )

    def _quantized_weight(self) -> Tensor:
        if self.rounding is not None:
            return self.rounding.soft_weight()
        if self.weight_hat is None:
            raise NotCalibrated("a layer was activated before it had codes")
        return self.weight_hat


class QuantConv2d(QuantLayer):
    """A 2-d convolution without groups."""

    num_spatial = 2

    def __init__(self, conv: nn.Conv2d, bits: LayerBits) -> None:
        super().__init__(conv.weight, conv.bias, bits)
        self.stride = conv.stride
        self.padding = conv.padding
        self.dilation = conv.dilation

    def run(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return the convolution of x (N, C, H, W) with a weight (D, C, kh, kw)."""
        return nnf.conv2d(
            x, weight, self.bias, self.stride, self.padding, self.dilation
        )


class QuantLinear(QuantLayer):
    """A linear layer."""

    num_spatial = 0

    def __init__(self, linear: nn.Linear, bits: LayerBits) -> None:
        super().__init__(linear.weight, linear.bias, bits)

    def run(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return x (..., C) times the transposed weight (D, C)."""
        return nnf.linear(x, weight, self.bias)

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

from tcaq_core.difference import DifferenceQuantizer
from tcaq_core.functional import AffineParams, dequantize, weight_params
from tcaq_core.learned import AdaRound, nearest_codes
from tcaq_core.quantizers import NotCalibrated, UniformQuantizer
from tcaq_core.recipe import LayerBits
from tcaq_core.timesteps import TimestepCursor


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
    weight_target: Float[Tensor, "D C *K"] | None
    """Continuous weight that rounding starts from, where it is not the full weight."""
    bias_hat: Float[Tensor, "D"] | None
    """Bias of the quantized layer, where it is not the full-precision one."""
    weight_scale: Float[Tensor, "D P"]
    weight_zero_point: Float[Tensor, "D P"]

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        bits: LayerBits,
        *,
        cursor: TimestepCursor,
    ) -> None:
        super().__init__()
        self.bits = bits
        self.cursor = cursor
        self.parts: tuple[int, ...] = (weight.shape[1],)
        """Input channels of each part that has grids of its own."""
        self.register_buffer("weight", weight.detach().clone())
        self.bias = (
            None
            if bias is None
            else nn.Parameter(bias.detach().clone(), requires_grad=False)
        )
        self.register_buffer("input_rescale", torch.ones(weight.shape[1]))
        self.register_buffer("weight_codes", None)
        self.register_buffer("weight_hat", None)
        self.register_buffer("weight_target", None)
        self.register_buffer("bias_hat", None)
        self.register_buffer("weight_scale", torch.ones(weight.shape[0], 1))
        self.register_buffer("weight_zero_point", torch.zeros(weight.shape[0], 1))
        self.input_quantizer: UniformQuantizer | DifferenceQuantizer | None
        self.input_quantizer = self._new_input_quantizer()
        self.rounding: AdaRound | None = None
        self.is_rescaled = False
        self.is_settled = False
        """Whether a pass decided its codes for good: later passes leave them alone."""
        self.is_active = False

    @abstractmethod
    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the layer's output for a given weight and bias."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's shape (D, C, ...)."""
        known = self.weight if self.weight is not None else self.codes()
        return tuple(known.shape)

    @property
    def weight_params(self) -> AffineParams:
        """The weight grid, shaped to broadcast against the weight (D, 1 or C, ...)."""
        return AffineParams(
            self._over_weight(self.weight_scale),
            self._over_weight(self.weight_zero_point),
        )

    def full_weight(self) -> Float[Tensor, "D C *K"]:
        """Return the full-precision weight, with TCR's factors multiplied in.

        Raises:
            NotCalibrated: loaded from a checkpoint, which holds codes only.
        """
        if self.weight is None:
            raise NotCalibrated("a reloaded layer has codes but no full weight")
        return self.weight

    def change_bits(self, bits: LayerBits) -> None:
        """Set other bit widths; every grid has to be fitted again."""
        self.bits = bits
        self.input_quantizer = self._new_input_quantizer()
        self.weight_codes = self.weight_hat = None
        self.is_active = False

    def split_input(self, parts: tuple[int, ...]) -> None:
        """Give each group of consecutive input channels grids of its own.

        Raises:
            ValueError: the parts do not add up to the input channels.
        """
        if sum(parts) != self.input_rescale.numel() or min(parts) < 1:
            raise ValueError(f"{parts} are not {self.input_rescale.numel()} channels")
        self.parts = parts
        self.change_bits(self.bits)

    def rescale_input(self, factor: Float[Tensor, "C"]) -> None:
        """Divide input channel j by factor_j and multiply its weights by it."""
        shape = (1, -1, *([1] * self.num_spatial))
        self.weight = self.full_weight() * factor.view(shape)
        self.input_rescale = self.input_rescale * factor
        self.is_rescaled = True

    def fit_weight(self, low: Float[Tensor, "D P"], high: Float[Tensor, "D P"]) -> None:
        """Set each output channel's grids and round the weight to nearest on them."""
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
        scale: Float[Tensor, "D P"],
        zero_point: Float[Tensor, "D P"],
    ) -> None:
        """Take the weight that a checkpoint holds; the full weight stays as it is.

        Raises:
            ValueError: tables of another shape than the parts need.
        """
        if scale.shape != (codes.shape[0], len(self.parts)):
            raise ValueError(f"weight grids {tuple(scale.shape)}")
        self.weight_scale, self.weight_zero_point = scale, zero_point
        self.commit(codes)

    def drop_full_weight(self, input_rescale: Float[Tensor, "C"] | None) -> None:
        """Forget the full weight: a checkpoint holds codes and TCR's factors only."""
        self.weight = None
        if input_rescale is not None:
            self.input_rescale = input_rescale
            self.is_rescaled = True

    def open_rounding(self) -> AdaRound:
        """Replace the codes by soft rounding until the next `commit`."""
        start = self.weight_target
        self.rounding = AdaRound(
            self.full_weight() if start is None else start,
            self.weight_params,
            num_bits=self.bits.weight_bits,
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
        x = self.quantize_input(x)
        if not self.is_active:
            return self.run(x, self.full_weight(), self.bias)
        bias = self.bias if self.bias_hat is None else self.bias_hat
        return self.run(x, self._quantized_weight(), bias)

    def quantize_input(self, x: Tensor) -> Tensor:
        """Return x / r on its grids, if they are active: what the kernel multiplies."""
        x = self.normalize_input(x)
        return x if self.input_quantizer is None else self.input_quantizer(x)

    def _new_input_quantizer(self) -> UniformQuantizer | None:
        # 16 activation bits mean: leave the input as it is.
        if self.bits.activation_bits == 16:
            return None
        quantizer = UniformQuantizer(self.bits.activation_bits, cursor=self.cursor)
        quantizer.parts = self.parts if len(self.parts) > 1 else ()
        return quantizer

    def _over_weight(self, table: Float[Tensor, "D P"]) -> Tensor:
        if len(self.parts) > 1:
            sizes = torch.tensor(self.parts, device=table.device)
            table = table.repeat_interleave(sizes, dim=1)
        return table.view(*table.shape, *([1] * self.num_spatial))

    def _quantized_weight(self) -> Tensor:
        if self.rounding is not None:
            return self.rounding.soft_weight()
        if self.weight_hat is None:
            raise NotCalibrated("a layer was activated before it had codes")
        return self.weight_hat


class QuantConv2d(QuantLayer):
    """A 2-d convolution without groups."""

    num_spatial = 2

    def __init__(
        self, conv: nn.Conv2d, bits: LayerBits, *, cursor: TimestepCursor
    ) -> None:
        super().__init__(conv.weight, conv.bias, bits, cursor=cursor)
        self.kernel_size = conv.kernel_size
        self.stride = conv.stride
        assert not isinstance(conv.padding, str)  # noqa: S101  (refused before)
        self.padding = conv.padding
        self.dilation = conv.dilation

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the convolution of x (N, C, H, W) with a weight (D, C, kh, kw)."""
        return nnf.conv2d(x, weight, bias, self.stride, self.padding, self.dilation)


class QuantLinear(QuantLayer):
    """A linear layer."""

    num_spatial = 0

    def __init__(
        self, linear: nn.Linear, bits: LayerBits, *, cursor: TimestepCursor
    ) -> None:
        super().__init__(linear.weight, linear.bias, bits, cursor=cursor)

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return x (..., C) times the transposed weight (D, C)."""
        return nnf.linear(x, weight, bias)

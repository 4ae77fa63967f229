"""A quantized layer on integer kernels: codes in, one product a part, float out."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from tcaq_core.layers import QuantConv2d, QuantLayer
from tcaq_core.quantizers import UniformQuantizer
from tcaq_core.runtime.grid_book import GridBook
from tcaq_core.runtime.kernels import Geometry, Kernels, Packed, Sources

Codes = tuple[UInt8[Tensor, "N _ *S"], ...]
"""The codes of each part of a layer's input."""


class IntegerLayer(nn.Module):
    """What a QuantLayer computes, from the same codes.

        y = sum_p s_p (W_p - Z_p) (q_p - z_p) + b

    over the parts p of its input channels, each an integer product with one float32
    scale for every output channel.
    """

    bias: Float[Tensor, "D"] | None
    reciprocal: Float[Tensor, "C"] | None

    def __init__(self, layer: QuantLayer, kernels: Kernels, book: GridBook) -> None:
        super().__init__()
        quantizer = layer.input_quantizer
        assert isinstance(quantizer, UniformQuantizer)  # noqa: S101  (can_be_integer)
        self.kernels = kernels
        self.quantizer = quantizer
        self.parts = layer.parts
        self.grids = book.grids(quantizer)
        self.packed = _pack(layer, kernels)
        bias = layer.bias if layer.bias_hat is None else layer.bias_hat
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self.register_buffer(
            "reciprocal",
            layer.input_rescale.reciprocal() if layer.is_rescaled else None,
        )

    @property
    def is_conv(self) -> bool:
        """Whether it is a convolution."""
        return self.packed[0].geometry is not None

    def forward(self, x: Float[Tensor, "N *S"]) -> Float[Tensor, "N *R"]:
        """Return the layer's output for a float input."""
        if self.is_conv:
            return self.run(self.quantize((x,)))
        rows = self.run(self.quantize((x.reshape(-1, x.shape[-1]),)))
        return rows.view(*x.shape[:-1], -1)

    def quantize(self, x: Sources) -> Codes:
        """Return the codes of the input that the sources stand for."""
        x = laid_out(x)
        if len(self.parts) == 1:
            return (
                self.kernels.quantize(x, self.grids[0], reciprocal=self.reciprocal),
            )
        if tuple(source.shape[1] for source in x) != self.parts:
            x = _split(x, self.parts)
        factors = self._factors()
        return tuple(
            self.kernels.quantize((piece,), grid, reciprocal=factor)
            for piece, grid, factor in zip(x, self.grids, factors, strict=True)
        )

    def run(
        self, codes: Codes, *, add: Float[Tensor, "N *R"] | None = None
    ) -> Float[Tensor, "N *R"]:
        """Return the layer's output for the codes of its parts, plus an addend."""
        product = self.kernels.conv if self.is_conv else self.kernels.linear
        first, *rest = zip(codes, self.grids, self.packed, strict=True)
        out = product(*first, bias=self.bias, add=add)
        for part in rest:
            out = product(*part, add=out)
        return out

    def _factors(self) -> tuple[Tensor | None, ...]:
        if self.reciprocal is None:
            return (None,) * len(self.parts)
        return tuple(piece.contiguous() for piece in self.reciprocal.split(self.parts))


def laid_out(x: Sources) -> Sources:
    """Return sources as the kernels read them: rows, or channels-last images.

    diffusers' own code turns some of them round: images of a batch of 64 or more
    before they are resized, the tokens of a single image before they are projected.
    """
    return tuple(
        source.contiguous(
            memory_format=torch.channels_last
            if source.ndim == 4
            else torch.contiguous_format
        )
        for source in x
    )


def why_simulated(layer: QuantLayer) -> str | None:
    """Return why a layer cannot run on integers; None if it can."""
    if layer.input_quantizer is None:
        return "its input has 16 bits"
    if not isinstance(layer.input_quantizer, UniformQuantizer):
        return "its input is quantized by differences (modulate)"
    if layer.rounding is not None or not layer.is_active:
        return "it is not quantized yet"
    return None


def _pack(layer: QuantLayer, kernels: Kernels) -> tuple[Packed, ...]:
    geometry = None
    if isinstance(layer, QuantConv2d):
        geometry = Geometry(
            _pair(layer.stride), _pair(layer.padding), _pair(layer.dilation)
        )
    # Codes minus zero point fit int8 (ADR 10).
    whole = (layer.codes().float() - layer.weight_params.zero_point).to(torch.int8)
    return tuple(
        kernels.pack(part.contiguous(), scale.contiguous(), geometry=geometry)
        for part, scale in zip(
            whole.split(layer.parts, dim=1), layer.weight_scale.unbind(1), strict=True
        )
    )


def _pair(value: tuple[int, ...]) -> tuple[int, int]:
    height, width = value
    return height, width


def _split(x: Sources, parts: tuple[int, ...]) -> Sources:
    whole = x[0] if len(x) == 1 else torch.cat(x, dim=1)
    return laid_out(whole.split(parts, dim=1))

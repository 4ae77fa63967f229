"""Self-attention on integer kernels: codes from the normalisation to the mix."""

from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from tcaq_core.attention import AttentionProcessor, QuantAttention
from tcaq_core.quantizers import UniformQuantizer
from tcaq_core.runtime.grid_book import GridBook
from tcaq_core.runtime.integer_blocks import norm_of
from tcaq_core.runtime.integer_layer import IntegerLayer
from tcaq_core.runtime.kernels import Grid, Kernels

OPERANDS = ("q", "k", "v")


class IntegerAttention(AttentionProcessor):
    """A diffusers attention processor: what `QuantAttention` computes, from codes."""

    def __init__(
        self,
        attn: Any,  # noqa: ANN401  (diffusers' Attention, which has no types)
        processor: QuantAttention,
        book: GridBook,
    ) -> None:
        super().__init__()
        projections = _projections(attn)
        self.kernels: Kernels = projections[0].kernels
        self.q, self.k, self.v = (_grid(processor, name, book) for name in OPERANDS)
        self.softmax = book.softmax_grid(processor.softmax_quantizer)
        # q, k and v have the same input; mostly, but not always, also the same grid.
        self.shares_input = book.same_grids(
            [projection.quantizer for projection in projections]
        ) and all(
            _equal(projections[0].reciprocal, projection.reciprocal)
            for projection in projections[1:]
        )

    @staticmethod
    def fits(attn: nn.Module) -> bool:
        """Return whether an attention block is one that `forward` computes."""
        return (
            isinstance(attn, Attention)
            and isinstance(attn.processor, QuantAttention)
            and set(attn.processor.operands) == set(OPERANDS)
            and attn.processor.softmax_quantizer.num_bits <= 8
            and attn.group_norm is not None
            and all(
                isinstance(layer, IntegerLayer) and len(layer.parts) == 1
                for layer in (attn.to_q, attn.to_k, attn.to_v, attn.to_out[0])
            )
        )

    def forward(
        self,
        attn: Any,  # noqa: ANN401  (diffusers' Attention, which has no types)
        hidden_states: Float[Tensor, "N C H W"],
        encoder_hidden_states: None = None,
        attention_mask: None = None,
        temb: Tensor | None = None,
    ) -> Float[Tensor, "N C H W"]:
        """Return spatial self-attention with its residual."""
        del encoder_hidden_states, attention_mask, temb
        x = hidden_states.contiguous(memory_format=torch.channels_last)
        q, k, v = (
            self.kernels.quantize((projected,), grid).unflatten(0, (x.shape[0], -1))
            for projected, grid in zip(
                self._projected(attn, x), (self.q, self.k, self.v), strict=True
            )
        )
        mixed = self.kernels.attention(
            q,
            k,
            v,
            (self.q, self.k, self.v),
            self.softmax,
            heads=attn.heads,
            scale=float(attn.scale),
        )
        out_layer = attn.to_out[0]
        codes = out_layer.quantize((mixed.flatten(0, 1),))
        residual = _tokens(x) if attn.residual_connection else None
        out: Tensor = _image(out_layer.run(codes, add=residual), like=x)
        factor = float(attn.rescale_output_factor)
        return out if factor == 1.0 else out / factor

    def _projected(
        self,
        attn: Any,  # noqa: ANN401
        x: Tensor,
    ) -> list[Float[Tensor, "M C"]]:
        norm = norm_of(attn.group_norm)
        projections = _projections(attn)
        inputs: list[Tensor] = []
        for projection in projections[: 1 if self.shares_input else 3]:
            codes = self.kernels.norm_quantize(
                (x,), norm, projection.grids[0], reciprocal=projection.reciprocal
            )
            inputs.append(_tokens(codes))
        if self.shares_input:
            inputs *= 3
        return [
            projection.run((codes,))
            for projection, codes in zip(projections, inputs, strict=True)
        ]


def _grid(processor: QuantAttention, name: str, book: GridBook) -> Grid:
    quantizer = processor.operands[name]
    assert isinstance(quantizer, UniformQuantizer)  # noqa: S101  (QuantAttention's own)
    (grid,) = book.grids(quantizer)
    return grid


def _projections(attn: Any) -> list[IntegerLayer]:  # noqa: ANN401
    return [attn.to_q, attn.to_k, attn.to_v]


def _tokens(x: Tensor) -> Float[Tensor, "M C"] | UInt8[Tensor, "M C"]:
    """Return a channels-last image as its pixels in a row: no copy."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _image(rows: Float[Tensor, "M D"], *, like: Tensor) -> Float[Tensor, "N D H W"]:
    n, _, height, width = like.shape
    return rows.view(n, height, width, -1).permute(0, 3, 1, 2)


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return torch.equal(a, b)

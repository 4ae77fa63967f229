"""Self-attention with quantized operands and an explicit softmax map.

A fused attention kernel never shows the post-softmax map, so the map that DAQ
quantizes has to be computed here.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tcaq_core.errors import ModelUnsupported
from tcaq_core.quantizers import SoftmaxQuantizer, UniformQuantizer
from tcaq_core.recipe import LayerBits, SoftmaxBits
from tcaq_core.timesteps import TimestepCursor


class AttentionMix(nn.Module):
    """The product of the post-softmax map, on its grid, with the values.

    A module of its own, so that calibration can watch both operands together.
    """

    def __init__(self, softmax_quantizer: SoftmaxQuantizer) -> None:
        super().__init__()
        self.softmax_quantizer = softmax_quantizer

    def forward(
        self, attention: Float[Tensor, "N heads L L"], v: Float[Tensor, "N heads L d"]
    ) -> Float[Tensor, "N heads L d"]:
        """Return Q(a) v."""
        return torch.matmul(self.softmax_quantizer(attention), v)


class AttentionProcessor(nn.Module, ABC):
    """A module that diffusers takes as the processor of an attention block."""

    def __call__(
        self,
        attn: Any,  # noqa: ANN401  (diffusers' Attention, which has no types)
        hidden_states: Float[Tensor, "N C H W"],
        encoder_hidden_states: None = None,
        attention_mask: None = None,
        temb: Tensor | None = None,
    ) -> Float[Tensor, "N C H W"]:
        """Return `forward`; diffusers reads the accepted arguments off this name."""
        out: Tensor = super().__call__(
            attn, hidden_states, encoder_hidden_states, attention_mask, temb
        )
        return out

    @abstractmethod
    def forward(
        self,
        attn: Any,  # noqa: ANN401  (diffusers' Attention, which has no types)
        hidden_states: Float[Tensor, "N C H W"],
        encoder_hidden_states: None = None,
        attention_mask: None = None,
        temb: Tensor | None = None,
    ) -> Float[Tensor, "N C H W"]:
        """Return spatial self-attention, with the block's residual."""


class QuantAttention(AttentionProcessor):
    """A diffusers attention processor: softmax(q k^T / sqrt(d)) v on grids.

    q, k and v have one uniform grid each, the softmax map one a timestep group. The
    projections around it are `QuantLinear` layers of their own.
    """

    def __init__(
        self,
        *,
        bits: LayerBits,
        softmax_bits: SoftmaxBits,
        cursor: TimestepCursor,
        num_timesteps: int,
    ) -> None:
        super().__init__()
        self.bits = bits
        self.operands = nn.ModuleDict(
            {
                name: UniformQuantizer(bits.activation_bits, cursor=cursor)
                for name in ("q", "k", "v")
            }
            if bits.activation_bits < 16
            else {}
        )
        self.mix = AttentionMix(
            SoftmaxQuantizer(softmax_bits, cursor=cursor, num_timesteps=num_timesteps)
        )

    @property
    def softmax_quantizer(self) -> SoftmaxQuantizer:
        """The grid of the post-softmax map."""
        return self.mix.softmax_quantizer

    def forward(
        self,
        attn: Any,  # noqa: ANN401  (diffusers' Attention, which has no types)
        hidden_states: Float[Tensor, "N C H W"],
        encoder_hidden_states: None = None,
        attention_mask: None = None,
        temb: Tensor | None = None,
    ) -> Float[Tensor, "N C H W"]:
        """Return what diffusers' own processor returns for spatial self-attention."""
        del encoder_hidden_states, attention_mask, temb
        batch, channel, height, width = hidden_states.shape
        tokens = hidden_states.view(batch, channel, height * width).transpose(1, 2)
        if attn.group_norm is not None:
            tokens = attn.group_norm(tokens.transpose(1, 2)).transpose(1, 2)
        q, k, v = (
            self._operand(name, project(tokens), heads=attn.heads)
            for name, project in (
                ("q", attn.to_q),
                ("k", attn.to_k),
                ("v", attn.to_v),
            )
        )
        logits = torch.matmul(q, k.transpose(-1, -2)) * attn.scale
        mixed: Tensor = self.mix(torch.softmax(logits, dim=-1), v)
        mixed = mixed.transpose(1, 2).reshape(batch, height * width, -1)
        out: Tensor = attn.to_out[1](attn.to_out[0](mixed))  # projection, dropout
        out = out.transpose(-1, -2).reshape(batch, -1, height, width)
        if attn.residual_connection:
            out = out + hidden_states
        return out / float(attn.rescale_output_factor)

    def _operand(
        self, name: str, x: Float[Tensor, "N L C"], *, heads: int
    ) -> Float[Tensor, "N heads L d"]:
        if name in self.operands:
            x = self.operands[name](x)
        by_head: Tensor = x.unflatten(-1, (heads, -1)).transpose(1, 2)
        return by_head


def check_supported(name: str, attn: Any) -> None:  # noqa: ANN401
    """Refuse an attention block that `QuantAttention` would compute differently.

    Raises:
        ModelUnsupported: cross-attention, extra norms or an added projection.
    """
    extras = ("spatial_norm", "norm_q", "norm_k", "norm_cross", "add_k_proj")
    found = [extra for extra in extras if getattr(attn, extra, None) is not None]
    if getattr(attn, "is_cross_attention", False):
        found.append("cross-attention")
    if found:
        raise ModelUnsupported(
            f"The attention block {name} has {', '.join(found)}.",
            hint="Supported: spatial self-attention as in UNet2DModel.",
        )

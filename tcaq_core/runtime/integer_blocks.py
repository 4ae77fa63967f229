"""A denoiser's blocks on integer kernels, with what lies between products fused.

Each stands where diffusers' block stood and computes the same function of the same
codes. What a block has that is not written here keeps it as diffusers wrote it, on
integer layers one by one.
"""

from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import AttnUpBlock2D, UpBlock2D
from diffusers.models.upsampling import Upsample2D
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as nnf

from tcaq_core.runtime.integer_layer import IntegerLayer, laid_out
from tcaq_core.runtime.kernels import Norm, Sources


class IntegerResnet(nn.Module):
    """A residual block whose two normalisations write codes."""

    def __init__(self, block: Any) -> None:  # noqa: ANN401  (diffusers has no types)
        super().__init__()
        self.conv1, self.conv2 = block.conv1, block.conv2
        self.time_emb_proj = block.time_emb_proj
        self.conv_shortcut = block.conv_shortcut
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.kernels = block.conv1.kernels
        self.output_scale_factor = float(block.output_scale_factor)

    @staticmethod
    def fits(block: nn.Module) -> bool:
        """Return whether a block is one that `forward` computes."""
        return (
            isinstance(block, ResnetBlock2D)
            and all(_is_whole(conv) for conv in (block.conv1, block.conv2))
            and block.time_embedding_norm == "default"
            and not block.skip_time_act
            and isinstance(block.nonlinearity, nn.SiLU)
            and block.upsample is None
            and block.downsample is None
        )

    def forward(
        self, input_tensor: Float[Tensor, "N C H W"], temb: Tensor | None = None
    ) -> Float[Tensor, "N D H W"]:
        """Return the block's output."""
        return self.run((input_tensor,), temb)

    def run(self, x: Sources, temb: Tensor | None) -> Float[Tensor, "N D H W"]:
        """Return the block's output for the concatenation of its sources."""
        x = laid_out(x)
        hidden = self._activated(x, self.norm1, self.conv1, shift=None)
        shift = None
        if self.time_emb_proj is not None and temb is not None:
            shift = self.time_emb_proj(nnf.silu(temb))
        residual = self._residual(x)
        out = self._activated((hidden,), self.norm2, self.conv2, shift, add=residual)
        factor = self.output_scale_factor
        return out if factor == 1.0 else out / factor

    def _activated(
        self,
        x: Sources,
        norm: nn.GroupNorm,
        conv: IntegerLayer,
        shift: Tensor | None,
        add: Tensor | None = None,
    ) -> Tensor:
        codes = self.kernels.norm_quantize(
            x,
            norm_of(norm),
            conv.grids[0],
            shift=shift,
            reciprocal=conv.reciprocal,
            silu=True,
        )
        return conv.run((codes,), add=add)

    def _residual(self, x: Sources) -> Tensor:
        if isinstance(self.conv_shortcut, IntegerLayer):
            return self.conv_shortcut.run(self.conv_shortcut.quantize(x))
        whole = x[0] if len(x) == 1 else torch.cat(x, dim=1)
        if self.conv_shortcut is None:
            return whole
        projected: Tensor = self.conv_shortcut(whole)
        return projected


class IntegerUpBlock(nn.Module):
    """An up block that hands its skip connections on without concatenating them."""

    def __init__(self, block: Any) -> None:  # noqa: ANN401  (diffusers has no types)
        super().__init__()
        self.resnets = block.resnets
        self.attentions = getattr(block, "attentions", None)
        self.upsamplers = block.upsamplers

    @staticmethod
    def fits(block: nn.Module) -> bool:
        """Return whether a block is one that `forward` computes."""
        return (
            isinstance(block, (UpBlock2D, AttnUpBlock2D))
            and all(isinstance(resnet, IntegerResnet) for resnet in block.resnets)
            and all(
                isinstance(upsampler, (Upsample2D, IntegerUpsample))
                for upsampler in block.upsamplers or ()
            )
            and not all(getattr(block, name, None) for name in ("s1", "s2", "b1", "b2"))
        )

    def forward(
        self,
        hidden_states: Float[Tensor, "N C H W"],
        res_hidden_states_tuple: tuple[Tensor, ...],
        temb: Tensor | None = None,
        upsample_size: Any = None,  # noqa: ANN401  (diffusers' signature)
    ) -> Float[Tensor, "N D I J"]:
        """Return the block's output; the last skip connection is used first."""
        skips = reversed(res_hidden_states_tuple)
        attentions = self.attentions or [None] * len(self.resnets)
        for resnet, attention, skip in zip(
            self.resnets, attentions, skips, strict=True
        ):
            hidden_states = resnet.run((hidden_states, skip), temb)
            if attention is not None:
                hidden_states = attention(hidden_states)
        for upsampler in self.upsamplers or ():
            hidden_states = upsampler(hidden_states, upsample_size)
        return hidden_states


class IntegerUpsample(nn.Module):
    """Nearest upsampling of codes, a quarter of the numbers, then the convolution."""

    def __init__(self, block: Any) -> None:  # noqa: ANN401  (diffusers has no types)
        super().__init__()
        self.conv = block.conv if block.name == "conv" else block.Conv2d_0

    @staticmethod
    def fits(block: nn.Module) -> bool:
        """Return whether a block is one that `forward` computes."""
        return (
            isinstance(block, Upsample2D)
            and bool(block.use_conv)
            and not block.use_conv_transpose
            and bool(block.interpolate)
            and block.norm is None
            and isinstance(
                block.conv if block.name == "conv" else block.Conv2d_0, IntegerLayer
            )
        )

    def forward(
        self,
        hidden_states: Float[Tensor, "N C H W"],
        output_size: Any = None,  # noqa: ANN401  (diffusers' signature)
    ) -> Float[Tensor, "N D I J"]:
        """Return the convolution of the upsampled input."""
        codes = self.conv.quantize((hidden_states,))
        size = output_size or [2 * side for side in hidden_states.shape[-2:]]
        larger = tuple(
            nnf.interpolate(part, size=size, mode="nearest") for part in codes
        )
        out: Tensor = self.conv.run(larger)
        return out


def norm_of(norm: nn.GroupNorm) -> Norm:
    """Return a module's group normalisation as the kernels take it."""
    return Norm(norm.weight.detach(), norm.bias.detach(), norm.num_groups, norm.eps)


def _is_whole(layer: object) -> bool:
    return isinstance(layer, IntegerLayer) and len(layer.parts) == 1

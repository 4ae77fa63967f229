"""A UNet2DModel whose convolutions, linears and attention maps can be quantized."""

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d import UNet2DOutput
from jaxtyping import Float, Int
from torch import Tensor, nn

from tcaq_core.attention import QuantAttention, check_supported
from tcaq_core.correction import OutputCorrection, correction_of
from tcaq_core.difference import DifferenceQuantizer
from tcaq_core.errors import ModelUnsupported
from tcaq_core.layers import QuantConv2d, QuantLayer, QuantLinear
from tcaq_core.quantizers import SoftmaxQuantizer, UniformQuantizer
from tcaq_core.recipe import Recipe
from tcaq_core.timesteps import TimestepCursor

# The unit of reconstruction (BRECQ): a residual block, an attention block, the time
# embedding; a quantized layer outside of all of them is a block of its own.
BLOCK_TYPES = (ResnetBlock2D, Attention, TimestepEmbedding)

# Everything that `full_precision` switches off.
ACTIVE_PARTS = (
    QuantLayer,
    UniformQuantizer,
    SoftmaxQuantizer,
    DifferenceQuantizer,
    OutputCorrection,
)


class QuantizedDenoiser:
    """Quantized layers swapped into a denoiser, in place.

    The `unet` stays the UNet2DModel that its pipeline knows: sampling needs nothing
    else. Everything starts in full precision; the passes turn quantization on.
    """

    def __init__(
        self, unet: UNet2DModel, recipe: Recipe, *, num_timesteps: int
    ) -> None:
        self.unet = unet
        self.num_timesteps = num_timesteps
        self.cursor = TimestepCursor()
        self.recommended_steps: int | None = None
        """The sampler length that was chosen together with the bits (TMPQ-DM)."""
        self.num_parameters = sum(p.numel() for p in unet.parameters())
        """Parameters of the model in full precision."""
        _check_patterns(unet, recipe)
        self._swap_layers(recipe)
        self._swap_attention(recipe)
        # Grids are created on the CPU; they belong where the model is.
        unet.to(unet.device)
        self._follow_timestep()

    def __call__(
        self, x_t: Float[Tensor, "N C H W"], t: Int[Tensor, "N"]
    ) -> Float[Tensor, "N C H W"]:
        """Return the predicted noise eps."""
        eps: Tensor = self.unet(x_t, t, return_dict=False)[0]
        return eps

    def quant_layers(self) -> Iterator[tuple[str, QuantLayer]]:
        """Yield every quantized convolution and linear with its module name."""
        for name, module in self.unet.named_modules():
            if isinstance(module, QuantLayer):
                yield name, module

    def attentions(self) -> Iterator[tuple[str, Attention, QuantAttention]]:
        """Yield every quantized attention: name, diffusers' block, our processor."""
        for name, module in self.unet.named_modules():
            if isinstance(module, Attention) and isinstance(
                module.processor, QuantAttention
            ):
                yield name, module, module.processor

    def activation_quantizers(self) -> dict[str, UniformQuantizer]:
        """Return the grids of layer inputs and attention operands, by module name."""
        return {
            name: module
            for name, module in self.unet.named_modules()
            if isinstance(module, UniformQuantizer)
        }

    def blocks(self) -> dict[str, nn.Module]:
        """Return the reconstruction blocks that hold open quantized layers, by name."""
        found: dict[str, nn.Module] = {}
        for name, module in self.unet.named_modules():
            inside = any(name.startswith(f"{block}.") for block in found)
            is_unit = isinstance(module, (*BLOCK_TYPES, QuantLayer))
            if is_unit and not inside and quant_layers_in(module):
                found[name] = module
        return found

    def correct_with(self, correction: OutputCorrection) -> None:
        """Correct every prediction from now on; replaces an earlier correction."""
        self.unet.add_module("output_correction", correction.to(self.unet.device))

    @contextmanager
    def full_precision(self) -> Iterator[None]:
        """Execute without quantization; restores each module's own state."""
        parts = [m for m in self.unet.modules() if isinstance(m, ACTIVE_PARTS)]
        before = [part.is_active for part in parts]
        for part in parts:
            part.is_active = False
        try:
            yield
        finally:
            for part, state in zip(parts, before, strict=True):
                part.is_active = state

    def _swap_layers(self, recipe: Recipe) -> None:
        swapped = 0
        for name, module in list(self.unet.named_modules()):
            bits = recipe.bits_of(name)
            if bits is None or not isinstance(module, (nn.Conv2d, nn.Linear)):
                continue
            if isinstance(module, nn.Conv2d):
                if (
                    module.groups != 1
                    or module.padding_mode != "zeros"
                    or isinstance(module.padding, str)
                ):
                    raise ModelUnsupported(
                        f"The convolution {name} is grouped or padded unusually.",
                        hint=f"Add {name!r} to the recipe's skip list.",
                    )
                layer: QuantLayer = QuantConv2d(module, bits, cursor=self.cursor)
            else:
                layer = QuantLinear(module, bits, cursor=self.cursor)
            self.unet.set_submodule(name, layer)
            swapped += 1
        if not swapped:
            raise ModelUnsupported(
                "No layer of this model would be quantized.",
                hint="The recipe's skip list matches every layer.",
            )

    def _swap_attention(self, recipe: Recipe) -> None:
        for name, module in list(self.unet.named_modules()):
            bits = recipe.bits_of(name)
            if bits is None or not isinstance(module, Attention):
                continue
            check_supported(name, module)
            processor = QuantAttention(
                bits=bits,
                softmax_bits=recipe.softmax_bits,
                cursor=self.cursor,
                num_timesteps=self.num_timesteps,
            )
            module.set_processor(processor)

    def _follow_timestep(self) -> None:
        forward = self.unet.forward

        def at_timestep(
            sample: Tensor,
            timestep: Tensor | float,
            *args: Any,  # noqa: ANN401  (diffusers' signature)
            **kwargs: Any,  # noqa: ANN401
        ) -> Any:  # noqa: ANN401
            t = torch.as_tensor(timestep, device=sample.device).long()
            with self.cursor.at(t.expand(sample.shape[0])):
                return self._corrected(forward(sample, timestep, *args, **kwargs))

        self.unet.forward = at_timestep

    def _corrected(
        self, out: UNet2DOutput | tuple[Tensor, ...]
    ) -> UNet2DOutput | tuple[Tensor, ...]:
        correction = correction_of(self.unet)
        if correction is None:
            return out
        if isinstance(out, tuple):
            return (correction(out[0]), *out[1:])
        return UNet2DOutput(sample=correction(out.sample))


def _check_patterns(unet: UNet2DModel, recipe: Recipe) -> None:
    names = [name for name, _ in unet.named_modules()]
    method = recipe.method
    for pattern in (*method.skip, *(o.match for o in method.overrides)):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ModelUnsupported(
                f"The pattern {pattern!r} matches no layer of this model.",
                hint="Patterns are globs over module names, e.g. 'mid_block.*'.",
            )


def modulate_input(layer: QuantLayer, ranges: Literal["step", "dynamic"]) -> None:
    """Let a layer quantize what changed in its input since the last sampler step.

    Raises:
        ValueError: the layer's input is not quantized.
    """
    if layer.bits.activation_bits == 16:
        raise ValueError("an input in full precision has no quantized differences")
    layer.input_quantizer = DifferenceQuantizer(
        layer.bits.activation_bits,
        cursor=layer.cursor,
        parts=layer.parts if len(layer.parts) > 1 else (),
        is_static=ranges == "step",
    ).to(layer.input_rescale.device)


def quant_layers_in(module: nn.Module) -> dict[str, QuantLayer]:
    """Return the layers inside a module that a pass may still round, by name there.

    Settled layers are left out: they run as they are (TFMQ-DM's temporal block).
    """
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, QuantLayer) and not layer.is_settled
    }

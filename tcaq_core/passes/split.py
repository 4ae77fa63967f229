"""Shortcut-splitting quantization (Q-Diffusion, 2302.04304, section 4.2).

An up block concatenates its own feature map X1 with one X2 from the way down. The
residual block's normalisations even them out, but its 1x1 shortcut convolution reads
both as they are, and their ranges differ by far. Each half gets grids of its own:

    Q(W) Q(X) := Q1(W1) Q1(X1) + Q2(W2) Q2(X2),    X = [X1 | X2], W = [W1 | W2].

Invariant: the full-precision function of the denoiser does not change.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from tcaq_core.calibration import CalibrationSet
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.errors import ModelUnsupported
from tcaq_core.layers import QuantLayer

SKIPS = "res_hidden_states_tuple"
"""diffusers' name for an up block's second input: feature maps from the way down."""


def apply(denoiser: QuantizedDenoiser, data: CalibrationSet) -> dict[str, list[int]]:
    """Split every quantized shortcut of the up blocks; return the parts by layer name.

    A model without such a layer, or whose recipe skips them all, gives an empty dict.

    Raises:
        ModelUnsupported: a shortcut reads something else than its two feature maps.
    """
    layers = dict(denoiser.quant_layers())
    found = boundaries(denoiser, data)
    for name, parts in found.items():
        layers[name].split_input(parts)
    return {name: list(parts) for name, parts in found.items()}


@torch.no_grad()
def boundaries(
    denoiser: QuantizedDenoiser, data: CalibrationSet
) -> dict[str, tuple[int, int]]:
    """Watch one forward; return the channels of both feature maps by shortcut name.

    Raises:
        ModelUnsupported: a shortcut reads something else than its two feature maps.
    """
    shortcuts = shortcuts_of(denoiser)
    skips: dict[str, Tensor] = {}
    found: dict[str, tuple[int, int]] = {}

    def enter(block: str) -> Callable[..., None]:
        def see(
            _module: nn.Module, args: tuple[Any, ...], given: dict[str, Any]
        ) -> None:
            maps = given[SKIPS] if SKIPS in given else args[1]
            # Residual block i takes the i-th from the end.
            for i, skip in enumerate(reversed(maps)):
                skips[f"{block}.resnets.{i}.conv_shortcut"] = skip

        return see

    def read(name: str) -> Callable[..., None]:
        def see(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            found[name] = boundary(name, args[0], skips.get(name))

        return see

    with ExitStack() as hooks:
        for block in sorted({name.split(".resnets.")[0] for name in shortcuts}):
            module = denoiser.unet.get_submodule(block)
            hook = module.register_forward_pre_hook(enter(block), with_kwargs=True)
            hooks.callback(hook.remove)
        for name, layer in shortcuts.items():
            hooks.callback(layer.register_forward_pre_hook(read(name)).remove)
        with denoiser.full_precision():
            denoiser(data.x_t[:1], data.t[:1])
    return found


def shortcuts_of(denoiser: QuantizedDenoiser) -> dict[str, QuantLayer]:
    """Return the quantized shortcut convolutions of the up blocks, by name."""
    return {
        name: layer
        for name, layer in denoiser.quant_layers()
        if name.startswith("up_blocks.")
        and ".resnets." in name
        and name.endswith(".conv_shortcut")
    }


def boundary(name: str, x: Tensor, skip: Tensor | None) -> tuple[int, int]:
    """Return the channels of both halves of a shortcut's input (N, C, H, W).

    Raises:
        ModelUnsupported: the input does not end with the skipped feature map.
    """
    if skip is not None:
        hidden = x.shape[1] - skip.shape[1]
        if hidden > 0 and torch.equal(x[:, hidden:], skip):
            return hidden, skip.shape[1]
    raise ModelUnsupported(
        f"The input of {name} is not a concatenation of two feature maps.",
        hint=f"Leave out the split pass, or add {name!r} to the recipe's skip list.",
    )

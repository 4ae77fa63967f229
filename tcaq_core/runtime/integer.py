"""Integer execution: the same codes, multiplied as integers.

`simulated` execution (tcaq_core/layers.py) is what a checkpoint means; this is what a
user runs. Both read the same codes and grids, so that they agree: equal codes wherever
their inputs are equal, and outputs within the rounding of float32 sums.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final, Literal

import torch
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.difference import fresh_trajectory
from tcaq_core.runtime.backend import NoKernels, fastest_kernels
from tcaq_core.runtime.grid_book import GridBook
from tcaq_core.runtime.integer_attention import IntegerAttention
from tcaq_core.runtime.integer_blocks import (
    IntegerResnet,
    IntegerUpBlock,
    IntegerUpsample,
)
from tcaq_core.runtime.integer_layer import IntegerLayer, why_simulated
from tcaq_core.runtime.kernels import Kernels

GRID_BOOK: Final = "grid_book"


@dataclass(frozen=True)
class Execution:
    """How a denoiser executes, as a response and a report name it."""

    kind: Literal["integer", "simulated"]
    kernels: str
    """``onednn-int8``, ``triton-int8``, ``eager-float32``, or ``torch-float32``."""
    integer_layers: int
    simulated_layers: dict[str, str]
    """Why each of these layers still runs simulated, by name."""
    note: str | None = None
    """Why this is not the fastest execution, where it is not."""


@torch.inference_mode(False)  # a page written in that mode could not be turned outside
@torch.no_grad()
def compile_integer(
    denoiser: QuantizedDenoiser, *, kernels: Kernels | None = None
) -> Execution:
    """Let a quantized denoiser execute on integer kernels from now on, in place.

    Without `kernels` the fastest ones that are exact on the denoiser's device; where
    there are none it stays as it is, simulated, and `note` says why. For inference
    only. Its quantized layers are gone afterwards: save a checkpoint before.

    Raises:
        ValueError: it executes on integer kernels already.
    """
    if hasattr(denoiser.unet, GRID_BOOK):
        raise ValueError("a denoiser is compiled once")
    layers = dict(denoiser.quant_layers())
    reasons = {name: why_simulated(layer) for name, layer in layers.items()}
    simulated = {name: why for name, why in reasons.items() if why is not None}
    note = None
    if kernels is None:
        try:
            kernels, note = fastest_kernels(denoiser)
        except NoKernels as error:
            every = dict.fromkeys(layers, str(error))
            return Execution("simulated", "torch-float32", 0, every, str(error))
    chosen = [name for name in layers if name not in simulated]
    if not chosen:
        return Execution("simulated", "torch-float32", 0, simulated)
    book = GridBook(denoiser)
    swap: dict[nn.Module, nn.Module] = {
        layers[name]: IntegerLayer(layers[name], kernels, book) for name in chosen
    }
    _replace(denoiser.unet, swap)
    _fuse(denoiser, book)
    denoiser.unet.to(memory_format=torch.channels_last)
    denoiser.unet.add_module(GRID_BOOK, book)
    _follow_timestep(denoiser, book)
    return Execution("integer", kernels.name, len(chosen), simulated, note)


def _fuse(denoiser: QuantizedDenoiser, book: GridBook) -> None:
    for _, attn, processor in list(denoiser.attentions()):
        if IntegerAttention.fits(attn):
            attn.set_processor(IntegerAttention(attn, processor, book))
    for kind in (IntegerResnet, IntegerUpsample, IntegerUpBlock):
        fitting = [m for m in denoiser.unet.modules() if kind.fits(m)]
        _replace(denoiser.unet, {module: kind(module) for module in fitting})


def _replace(root: nn.Module, swap: dict[nn.Module, nn.Module]) -> None:
    # By parent, not by name: diffusers registers some layers under two names.
    for parent in list(root.modules()):
        for name, child in parent.__dict__["_modules"].items():
            if child in swap:
                setattr(parent, name, swap[child])


def _follow_timestep(denoiser: QuantizedDenoiser, book: GridBook) -> None:
    unet = denoiser.unet
    forward = unet.forward
    running = Lock()

    @torch.no_grad()
    def at_timestep(
        sample: Tensor,
        timestep: Tensor | float,
        *args: Any,  # noqa: ANN401  (diffusers' signature)
        **kwargs: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        given = torch.as_tensor(timestep, device=sample.device).reshape(-1)
        t = given.long()
        if t.numel() > 1 and bool((t != t[0]).any()):
            with fresh_trajectory(unet):
                return _one_by_one(at_timestep, sample, given, *args, **kwargs)
        sample = sample.contiguous(memory_format=torch.channels_last)
        with _alone(running):
            book.turn_to(t[:1])
            return forward(sample, timestep, *args, **kwargs)

    unet.forward = at_timestep


@contextmanager
def _alone(running: Lock) -> Iterator[None]:
    # A second thread would turn the page under the first one's layers.
    if not running.acquire(blocking=False):
        raise RuntimeError("a denoiser runs one forward at a time")
    try:
        yield
    finally:
        running.release()


def _one_by_one(
    forward: Callable[..., Any],
    sample: Tensor,
    timesteps: Tensor,
    class_labels: Tensor | None = None,
    return_dict: bool = True,  # noqa: FBT001, FBT002  (diffusers' signature)
) -> UNet2DOutput | tuple[Tensor]:
    """Run the samples of each timestep together: a kernel has one grid at a time."""
    whole = timesteps.long()
    groups = [(whole == t).nonzero().flatten() for t in whole.unique()]
    parts = []
    for at in groups:
        labels = None if class_labels is None else class_labels[at]
        parts += forward(sample[at], timesteps[at], labels, return_dict=False)
    out = torch.cat(parts)[torch.cat(groups).argsort()]
    return UNet2DOutput(sample=out) if return_dict else (out,)

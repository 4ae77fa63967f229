"""A simulated denoiser beside its integer twin, and what may differ between them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.diffusion import Pipeline
from tcaq_core.layers import QuantLayer
from tcaq_core.runtime.kernels import Grid

EPS = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Quantized:
    """A pipeline and its quantized denoiser."""

    pipeline: Pipeline
    denoiser: QuantizedDenoiser


def grid(scale: float, zero_point: int, top: int) -> Grid:
    zero = torch.tensor(zero_point, dtype=torch.int32)
    return Grid(torch.tensor(scale), zero, top)


def rounding_bound(layer: QuantLayer, x_hat: Tensor) -> Tensor:
    """Return how far two float32 evaluations of a layer on x_hat can be apart.

    A sum of K products in float32 is within K eps / 2 of the sum of their magnitudes,
    whatever its order; scale, zero point and bias add a few roundings more.
    """
    weight = layer.weight_hat
    assert weight is not None
    terms = weight[0].numel()
    bias = layer.bias if layer.bias_hat is None else layer.bias_hat
    size = layer.run(x_hat.abs(), weight.abs(), None if bias is None else bias.abs())
    return (terms + 8) * EPS * size


def inputs_of(
    module: nn.Module, kind: type[nn.Module], run: Callable[[], object]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the input and output of every module of a kind during a run, by name."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str, args: tuple[Tensor, ...], out: Tensor) -> None:
        seen.setdefault(name, (args[0].clone(), out.clone()))

    handles = [
        part.register_forward_hook(
            lambda _, args, out, name=name: keep(name, args, out)
        )
        for name, part in module.named_modules()
        if isinstance(part, kind)
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return seen

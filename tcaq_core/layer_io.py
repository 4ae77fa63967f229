"""What the layers inside one block are given and answer, sampled over positions."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as nnf

from tcaq_core.calibration import CalibrationSet
from tcaq_core.denoiser import QuantizedDenoiser, quant_layers_in
from tcaq_core.layers import QuantConv2d, QuantLayer

# Samples of a layer's input: positions of feature maps, or tokens. A covariance of I
# columns needs a few times as many.
SAMPLES = 16_384
SAMPLES_PER_COLUMN = 4


class _Reached(Exception):
    """Raised to leave a block once the layer of interest was reached."""


@dataclass
class BlockSampler:
    """Samples the layers of a block at positions drawn once per layer.

    The answers of full precision and the inputs of quantized execution then belong
    together, row by row.
    """

    denoiser: QuantizedDenoiser
    block: nn.Module
    data: CalibrationSet
    generator: torch.Generator
    positions: dict[str, Int[Tensor, "N P"]] = field(default_factory=dict)

    @torch.no_grad()
    def answers(self, given: tuple[Tensor, ...]) -> dict[str, Float[Tensor, "M D"]]:
        """Return every layer's output in full precision, in the order of execution."""
        layers = quant_layers_in(self.block)
        kept: dict[str, list[Tensor]] = {}

        def hook_of(key: str) -> Callable[..., None]:
            return lambda _m, _args, out: kept.setdefault(key, []).append(out)

        handles = [
            layer.register_forward_hook(hook_of(key)) for key, layer in layers.items()
        ]
        try:
            with self.denoiser.full_precision():
                self._run(given)
        finally:
            for handle in handles:
                handle.remove()
        return {
            key: self._choose(key, layers[key], positions_of(torch.cat(parts)))
            for key, parts in kept.items()
        }

    @torch.no_grad()
    def inputs(self, key: str, given: tuple[Tensor, ...]) -> Float[Tensor, "M I"]:
        """Return one layer's input as quantized execution multiplies it: columns."""
        layer = quant_layers_in(self.block)[key]
        kept: list[Tensor] = []

        def stop(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            del module
            x_hat = columns_of(layer, layer.quantize_input(args[0]))
            start = sum(len(part) for part in kept)
            at = self.positions[key][start : start + len(x_hat)]
            kept.append(x_hat.take_along_dim(at[..., None], dim=1))
            raise _Reached

        handle = layer.register_forward_pre_hook(stop)
        try:
            self._run(given)
        finally:
            handle.remove()
        return torch.cat(kept).flatten(0, 1)

    def _run(self, given: tuple[Tensor, ...]) -> None:
        start = 0
        for batch in self.data.batches():
            at = slice(start, start + len(batch))
            start += len(batch)
            with self.denoiser.cursor.at(batch.t):
                try:
                    self.block(*(argument[at] for argument in given))
                except _Reached:
                    continue

    def _choose(
        self, key: str, layer: QuantLayer, rows: Float[Tensor, "N L D"]
    ) -> Float[Tensor, "M D"]:
        num, length = rows.shape[:2]
        columns = layer.full_weight()[0].numel()
        wanted = max(SAMPLES, SAMPLES_PER_COLUMN * columns)
        per_input = min(length, -(-wanted // num))
        draw = torch.rand(num, length, generator=self.generator)
        at = draw.topk(per_input, dim=1).indices.sort(dim=1).values
        self.positions[key] = at.to(rows.device)
        return rows.take_along_dim(self.positions[key][..., None], dim=1).flatten(0, 1)


def positions_of(out: Float[Tensor, "N *S"]) -> Float[Tensor, "N L D"]:
    """Return a layer's output, (N, D, H, W), (N, L, D) or (N, D), by positions."""
    match out.ndim:
        case 4:
            return out.flatten(2).transpose(1, 2)
        case 3:
            return out
        case _:
            return out[:, None]


def columns_of(layer: QuantLayer, x: Float[Tensor, "N *S"]) -> Float[Tensor, "N L I"]:
    """Return a layer's input as the rows that its flattened weight multiplies."""
    if isinstance(layer, QuantConv2d):
        unfolded = nnf.unfold(
            x,
            layer.kernel_size,
            dilation=layer.dilation,
            padding=layer.padding,
            stride=layer.stride,
        )
        return unfolded.transpose(1, 2)
    return positions_of(x)

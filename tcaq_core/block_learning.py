"""What reconstruction learns inside a block: opened, optimised, committed, undone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tcaq_core.block_state import block_state, load_block_state
from tcaq_core.denoiser import quant_layers_in
from tcaq_core.layers import QuantLayer
from tcaq_core.learned import AdaRound, RangeLearning, Rounding
from tcaq_core.quantizers import SoftmaxQuantizer, UniformQuantizer
from tcaq_core.recipe import PAR

GRIDS = (UniformQuantizer, SoftmaxQuantizer)


class BlockLearning:
    """The learnable side of one block, for one reconstruction.

    Weights are learned as soft roundings; activation scales and biases, where the
    recipe says so, with them. Until `commit` nothing of the block itself changes.
    """

    def __init__(
        self, block: nn.Module, config: PAR, *, generator: torch.Generator
    ) -> None:
        self._block = block
        self._config = config
        self._generator = generator
        self._before = block_state(block)
        self._layers = quant_layers_in(block)
        self.roundings: dict[str, AdaRound] = {}
        settled = {id(part) for part in settled_parts(block)}
        self._grids = [
            grid
            for grid in block.modules()
            if isinstance(grid, UniformQuantizer)
            and grid.is_fitted
            and id(grid) not in settled
        ]

    def open_roundings(self, start: Rounding | None) -> list[dict[str, Any]]:
        """Make the roundings (and biases) learnable; return Adam's groups."""
        config = self._config
        groups: list[dict[str, Any]] = []
        if config.learn_rounding:
            layers = self._layers.items()
            self.roundings = {key: layer.open_rounding() for key, layer in layers}
            if config.warm_start:
                for key, v in (start or {}).items():
                    self.roundings[key].reopen(v)
            variables = [rounding.v for rounding in self.roundings.values()]
            groups.append({"params": variables, "lr": config.learning_rate})
        if config.learn_biases:
            biases = [b for layer in self._layers.values() for b in _open_bias(layer)]
            groups.append({"params": biases, "lr": config.range_learning_rate})
        return groups

    def open_ranges(self, *, learn: bool, drop: float) -> list[dict[str, Any]]:
        """Make activation scales learnable, or only droppable; return Adam's groups."""
        if not learn and drop == 0.0:
            return []
        factors = []
        for grid in self._grids:
            grid.learning = RangeLearning(
                grid.scale, drop=drop, generator=self._generator
            )
            factors.append(grid.learning.log_factor)
        if not learn:
            return []
        return [{"params": factors, "lr": self._config.range_learning_rate}]

    def commit_roundings(self) -> Rounding:
        """Decide every rounding; return the variables for a warm start."""
        learned = {key: r.v.detach() for key, r in self.roundings.items()}
        for key, rounding in self.roundings.items():
            self._layers[key].commit(rounding.codes())
        for layer in self._layers.values():
            if layer.bias_hat is not None:
                layer.bias_hat = layer.bias_hat.detach()
        return learned

    @torch.no_grad()
    def commit_ranges(self) -> None:
        """Make what was learned of the scales the grids themselves."""
        for grid in self._grids:
            if grid.learning is not None:
                factor = grid.learning.log_factor.exp()
                grid.learning = None
                grid.load(
                    grid.scale * factor, grid.zero_point, row_of_step=grid.row_of_step
                )

    def undo(self) -> None:
        """Put the block back to what it was before."""
        load_block_state(self._block, self._before)
        for key, layer in self._layers.items():
            if f"{key}.bias_hat".lstrip(".") not in self._before:
                layer.bias_hat = None


def _open_bias(layer: QuantLayer) -> list[Tensor]:
    if layer.bias is None:
        return []
    start = layer.bias if layer.bias_hat is None else layer.bias_hat
    # Its own: full precision keeps the bias that the model came with.
    layer.bias_hat = start.detach().clone().requires_grad_()
    return [layer.bias_hat]


def settled_parts(block: nn.Module) -> Iterator[nn.Module]:
    """Yield everything inside the layers that an earlier pass has settled."""
    for module in block.modules():
        if isinstance(module, QuantLayer) and module.is_settled:
            yield from module.modules()


@contextmanager
def input_grids(block: nn.Module, *, active: bool) -> Iterator[None]:
    """Run a block with its activation and softmax grids on or off; restores them."""
    grids = [m for m in block.modules() if isinstance(m, GRIDS)]
    before = [grid.is_active for grid in grids]
    for grid in grids:
        grid.is_active = grid.is_active and active
    try:
        yield
    finally:
        for grid, state in zip(grids, before, strict=True):
            grid.is_active = state

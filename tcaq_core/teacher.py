"""What full precision answers to a reconstruction's inputs, block by block."""

from collections.abc import Callable

import torch
from torch import Tensor

from tcaq_core.calibration import BlockReplay, CalibrationSet, full_precision_outputs
from tcaq_core.denoiser import QuantizedDenoiser, quant_layers_in
from tcaq_core.workspace import Workspace


class Teacher:
    """Full precision on one calibration set; ask for blocks in order of execution."""

    def __init__(
        self,
        denoiser: QuantizedDenoiser,
        data: CalibrationSet,
        *,
        inside: bool,
        workspace: Workspace,
    ) -> None:
        self._denoiser = denoiser
        self._data = data
        self._targets = full_precision_outputs(denoiser, data, workspace)
        self._exact = BlockReplay(denoiser, data, workspace) if inside else None

    def blocks(self) -> list[str]:
        """Return the blocks' names, in the order of execution."""
        return list(self._targets)

    def answers(self, name: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a block's answer, and those of the layers inside it if asked for.

        Each block can be asked for once: its answer is not kept.

        Raises:
            OutOfMemory: the workspace has no room for the block.
        """
        target = self._targets.pop(name)
        if self._exact is None:
            return target, {}
        with self._denoiser.full_precision():
            given = self._exact.inputs_of(name, beside=target.nbytes)
        layers = layer_answers(self._denoiser, name, self._data, given)
        self._exact.finished[name] = target
        return target, layers


@torch.no_grad()
def layer_answers(
    denoiser: QuantizedDenoiser,
    name: str,
    data: CalibrationSet,
    given: tuple[Tensor, ...],
) -> dict[str, Tensor]:
    """Return the full-precision output of every open layer inside a block."""
    block = denoiser.blocks()[name]
    kept: dict[str, list[Tensor]] = {}

    def keep(key: str) -> Callable[..., None]:
        return lambda _m, _args, out: kept.setdefault(key, []).append(out)

    inside = {key: layer for key, layer in quant_layers_in(block).items() if key}
    handles = [layer.register_forward_hook(keep(k)) for k, layer in inside.items()]
    try:
        with denoiser.full_precision():
            start = 0
            for batch in data.batches():
                at = slice(start, start + len(batch))
                start += len(batch)
                with denoiser.cursor.at(batch.t):
                    block(*(argument[at] for argument in given))
    finally:
        for handle in handles:
            handle.remove()
    return {key: torch.cat(parts) for key, parts in kept.items()}

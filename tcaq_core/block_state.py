"""What reconstruction changes inside one block, taken out and put back.

Every tensor of the block's modules counts, so a learned scale, bias or code needs no
mention here: whatever differs afterwards is what was learned.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tcaq_core.layers import QuantLayer

# Computed from the codes whenever they are committed.
DERIVED = "weight_hat"


def block_state(block: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every parameter and buffer by its name within the block."""
    return {name: tensor.detach().clone() for name, tensor in _tensors(block)}


def changed(before: dict[str, Tensor], block: nn.Module) -> dict[str, Tensor]:
    """Return the block's tensors that are not what they were.

    Raises:
        ValueError: a tensor is gone; nothing that learns takes one away.
    """
    now = block_state(block)
    if gone := set(before) - set(now):
        raise ValueError(f"reconstruction removed {min(gone)}")
    return {
        name: tensor
        for name, tensor in now.items()
        if name not in before or not _equal(before[name], tensor)
    }


def load_block_state(block: nn.Module, state: dict[str, Tensor]) -> None:
    """Put `changed` tensors back and execute the codes that they hold.

    Raises:
        KeyError: the block has no such module.
    """
    touched: set[str] = set()
    for name, tensor in state.items():
        path, _, key = name.rpartition(".")
        module = _module(block, path)
        touched.add(path)
        if key in module._parameters:  # noqa: SLF001  (nn.Module has no public setter)
            parameter = module.get_parameter(key)
            parameter.data = tensor.to(parameter)
        else:
            # Everything of a block is on one device.
            setattr(module, key, tensor.to(_device(block)))
    for path in sorted(touched):
        module = _module(block, path)
        if isinstance(module, QuantLayer) and module.weight_codes is not None:
            module.commit(module.codes())


def _tensors(block: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in (*block.named_parameters(), *block.named_buffers()):
        if name.rpartition(".")[2] != DERIVED:
            yield name, tensor


def _module(block: nn.Module, path: str) -> nn.Module:
    try:
        return block.get_submodule(path)
    except AttributeError as error:
        raise KeyError(path) from error


def _device(block: nn.Module) -> torch.device:
    return next(tensor.device for _, tensor in _tensors(block))


def _equal(a: Tensor, b: Tensor) -> bool:
    # Bit for bit: scales that were never fitted are NaN.
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and torch.equal(
            a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)
        )
        if a.ndim
        else torch.equal(a, b)
    )

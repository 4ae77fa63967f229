"""Room for what reconstruction captures: memory up to a budget, then mapped files.

The block at hand needs its inputs and its target in memory. What waits for its turn,
other blocks' targets and finished outputs, makes way: it moves to files that are
mapped into memory and read a batch at a time. Values are the same either way.
"""

import math
import os
import tempfile
import weakref
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from tcaq_core.errors import OutOfMemory

DEFAULT_BUDGET_BYTES: Final = 8 * 2**30


class Workspace:
    """A budget of memory that several shelves and the block at hand share."""

    def __init__(
        self,
        budget_bytes: int = DEFAULT_BUDGET_BYTES,
        *,
        scratch: Path | None = None,
    ) -> None:
        self.budget_bytes = budget_bytes
        self.scratch = scratch
        """Where files go; None: the system's folder for temporary files."""
        self._claimed = 0
        self._claimant = ""
        self._shelves: list[weakref.ref[Shelf]] = []

    def shelf(self, *, rows: int) -> "Shelf":
        """Return an empty shelf whose tensors have that many rows."""
        shelf = Shelf(self, rows)
        self._claimant = ""
        self._shelves = [ref for ref in self._shelves if ref() is not None]
        self._shelves.append(weakref.ref(shelf))
        return shelf

    def claim(
        self, block: str, like: Sequence[Tensor], *, rows: int, beside: int = 0
    ) -> list[Tensor]:
        """Return empty tensors (rows, ...) for the inputs of the block at hand.

        `like` are the inputs of one batch, `beside` is the size of the target. The
        claim of the block before ends; a second claim of the same block adds to it.

        Raises:
            OutOfMemory: the budget is smaller than the inputs and the target.
        """
        held = self._claimed if block == self._claimant else 0
        needed = held + beside + sum(stacked_bytes(x, rows) for x in like)
        if needed > self.budget_bytes:
            raise OutOfMemory(
                f"The inputs and the target of block {block} take {needed} bytes; the "
                f"memory budget is {self.budget_bytes}.",
                hint=f"Give the worker TCAQ_MEMORY_BUDGET_BYTES={needed} or more, or "
                "lower the pass's num_inputs. With a larger budget the same job, "
                "submitted again, goes on where this one stopped.",
            )
        self._claimed, self._claimant = needed, block
        self._make_room()
        return [
            stacked(torch.empty(rows * _row(x), dtype=x.dtype, device=x.device), x)
            for x in like
        ]

    def has_room(self, num_bytes: int) -> bool:
        """Return whether memory has room for so much more."""
        return num_bytes <= self._free()

    def mapped(self, numel: int, dtype: torch.dtype) -> Tensor:
        """Return a flat tensor in a file that disappears with it.

        Raises:
            OutOfMemory: the scratch folder has no room.
        """
        num_bytes = numel * dtype.itemsize
        # Unlinked once it is mapped: even a process that is killed leaves nothing.
        with tempfile.NamedTemporaryFile(prefix="tcaq-", dir=self.scratch) as file:
            try:
                # Writing to a mapped file that finds no block kills the process.
                os.posix_fallocate(file.fileno(), 0, max(1, num_bytes))
            except OSError as error:
                raise OutOfMemory(
                    f"The scratch folder has no room for {num_bytes} bytes.",
                    hint="Free space there, or give the worker a larger "
                    "TCAQ_MEMORY_BUDGET_BYTES.",
                ) from error
            return torch.from_file(file.name, shared=True, size=numel, dtype=dtype)

    def _free(self) -> int:
        held = sum(shelf.bytes_in_memory() for shelf in self._alive())
        return self.budget_bytes - self._claimed - held

    def _make_room(self) -> None:
        # The oldest first: targets, each of which is read only once more.
        for shelf in self._alive():
            for name in shelf.in_memory():
                if self._free() >= 0:
                    return
                shelf.spill(name)

    def _alive(self) -> Iterator["Shelf"]:
        return (shelf for ref in self._shelves if (shelf := ref()) is not None)


class Shelf(MutableMapping[str, Tensor]):
    """Tensors (rows, ...) by name, each filled a batch at a time."""

    def __init__(self, workspace: Workspace, rows: int) -> None:
        self._workspace = workspace
        self._rows = rows
        self._memory: dict[str, Tensor] = {}
        self._files: dict[str, Tensor] = {}
        self._devices: dict[str, torch.device] = {}

    def fill(self, name: str, start: int, part: Tensor) -> None:
        """Put rows from `start` on; the first part of a name makes room for all."""
        if name not in self._devices:
            self._devices[name] = part.device
            numel = self._rows * _row(part)
            if self._workspace.has_room(stacked_bytes(part, self._rows)):
                flat = torch.empty(numel, dtype=part.dtype, device=part.device)
                self._memory[name] = stacked(flat, part)
            else:
                flat = self._workspace.mapped(numel, part.dtype)
                self._files[name] = stacked(flat, part)
        self._whole(name)[start : start + len(part)].copy_(part.detach())

    def rows(self, name: str, at: slice) -> Tensor:
        """Return some rows, on the device that they came from."""
        return self._whole(name)[at].to(self._devices[name])

    def spill(self, name: str) -> None:
        """Move a tensor from memory to a file."""
        whole = self._memory[name]
        flat = self._workspace.mapped(whole.numel(), whole.dtype)
        self._files[name] = stacked(flat, whole).copy_(whole)
        del self._memory[name]

    def in_memory(self) -> list[str]:
        """Return the names of what takes memory, the oldest first."""
        return list(self._memory)

    def bytes_in_memory(self) -> int:
        """Return how much of the budget this shelf takes."""
        return sum(tensor.nbytes for tensor in self._memory.values())

    def __getitem__(self, name: str) -> Tensor:
        return self.rows(name, slice(None))

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        self.pop(name, None)
        self.fill(name, 0, tensor)

    def __delitem__(self, name: str) -> None:
        del self._devices[name]
        self._memory.pop(name, None)
        self._files.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._devices)

    def __len__(self) -> int:
        return len(self._devices)

    def _whole(self, name: str) -> Tensor:
        return self._memory[name] if name in self._memory else self._files[name]


def stacked(flat: Tensor, like: Tensor) -> Tensor:
    """Return a flat tensor as rows (M, ...) laid out in memory as those of `like`.

    The layout is part of the result: convolutions of channels-last tensors add up in
    another order than those of contiguous ones.
    """
    strides = torch.empty_like(like, device="meta").stride()
    order = (0, *sorted(range(1, like.ndim), key=lambda dim: -strides[dim]))
    whole = flat.view(-1, *(like.shape[dim] for dim in order[1:]))
    return whole.permute([order.index(dim) for dim in range(like.ndim)])


def stacked_bytes(like: Tensor, rows: int) -> int:
    """Return what so many rows like these take."""
    return rows * _row(like) * like.element_size()


def _row(like: Tensor) -> int:
    return math.prod(like.shape[1:])

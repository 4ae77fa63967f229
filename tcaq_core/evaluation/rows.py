"""Features that lie in files: some rows are read at a time, never all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from tcaq_core.errors import EvaluationFailed
from tcaq_core.evaluation.tensor_file import read_tensor_file


@dataclass(frozen=True)
class RowPart:
    """Consecutive rows in one file."""

    path: Path
    offset: int
    """Bytes before the first row."""
    num_rows: int


@dataclass(frozen=True)
class FileRows:
    """The rows (N, F) of several files one behind the other: a `RowStore`.

    A file is mapped into memory only while rows are read from it: neither memory nor
    open files grow with the number of rows.
    """

    parts: tuple[RowPart, ...]
    num_features: int

    def __len__(self) -> int:
        return sum(part.num_rows for part in self.parts)

    def rows(self, indices: Int64[Tensor, "M"]) -> Float32[Tensor, "M F"]:
        """Return the features of these images, in the order asked for.

        Raises:
            IndexError: there is no such image.
            EvaluationFailed: a file is gone, or shorter than it was.
        """
        wanted = indices.numpy()
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"rows {wanted.min()} to {wanted.max()} of {len(self)}")
        ends = list(accumulate(part.num_rows for part in self.parts))
        found = np.empty((len(wanted), self.num_features), dtype=np.float32)
        owner = np.searchsorted(ends, wanted, side="right")
        # A part without rows is nobody's owner: it could not be mapped.
        for number in np.unique(owner):
            mine = owner == number
            part = self.parts[number]
            start = ends[number] - part.num_rows
            found[mine] = self._mapped(part)[wanted[mine] - start]
        return torch.from_numpy(found)

    def _mapped(self, part: RowPart) -> np.ndarray:
        shape = (part.num_rows, self.num_features)
        try:
            return np.memmap(part.path, "<f4", "r", part.offset, shape)
        except (OSError, ValueError) as error:
            raise _unreadable(part.path, "it is gone, or shorter than it was") from (
                error
            )


def open_rows(paths: Sequence[Path], *, tensor: str) -> FileRows:
    """Return the rows of a float32 tensor (n, F) that every one of the files holds.

    Raises:
        EvaluationFailed: a file is damaged, has no such tensor, or rows of another
            width; or there are no files.
    """
    parts: list[RowPart] = []
    widths: set[int] = set()
    for path in paths:
        part, width = _open_part(path, tensor)
        parts.append(part)
        widths.add(width)
        if len(widths) > 1:
            raise _unreadable(path, f"its {tensor} are {width} wide, others are not")
    if not parts:
        raise EvaluationFailed(
            "There are no features to read.", hint="Score at least two images."
        )
    return FileRows(tuple(parts), widths.pop())


def _open_part(path: Path, tensor: str) -> tuple[RowPart, int]:
    try:
        with path.open("rb") as file:
            stored = read_tensor_file(file).tensors.get(tensor)
    except (OSError, ValueError) as error:
        raise _unreadable(path, "it is gone or damaged") from error
    if stored is None or stored.dtype != "F32" or len(stored.shape) != 2:
        raise _unreadable(path, f"it has no float32 {tensor} of shape (N, F)")
    num_rows, width = stored.shape
    return RowPart(path, stored.offset, num_rows), width


def _unreadable(path: Path, reason: str) -> EvaluationFailed:
    return EvaluationFailed(
        f"The features in {path.name} cannot be read: {reason}.",
        hint="Submit the job again: files that are lost are made anew.",
    )

"""The header of a safetensors file, byte for byte; torch-free.

Wanted where the library does not help: metadata without torch, a file written piece by
piece, rows read from the middle of a tensor.
"""

import json
import math
import struct
from dataclasses import dataclass
from typing import BinaryIO, Final

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

MAX_HEADER_BYTES: Final = 2**20
METADATA: Final = "__metadata__"
ALIGNMENT: Final = 8
WIDTHS: Final = (
    dict.fromkeys(("F64", "I64", "U64"), 8)
    | dict.fromkeys(("F32", "I32", "U32"), 4)
    | dict.fromkeys(("F16", "BF16", "I16", "U16"), 2)
    | dict.fromkeys(("I8", "U8", "BOOL"), 1)
)
"""Bytes of one value, by the format's name of the dtype."""


@dataclass(frozen=True)
class Stored:
    """Type, shape and place of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    offset: int = 0
    """Bytes from the beginning of the file."""

    @property
    def size_bytes(self) -> int:
        """Return how many bytes its values take."""
        return WIDTHS[self.dtype] * math.prod(self.shape)

    def is_like(self, other: "Stored") -> bool:
        """Return whether type and shape are the same."""
        return (self.dtype, self.shape) == (other.dtype, other.shape)


@dataclass(frozen=True)
class TensorFile:
    """What a safetensors file declares."""

    metadata: dict[str, str]
    tensors: dict[str, Stored]


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    dtype: str
    shape: list[int] = Field(max_length=8)
    data_offsets: tuple[int, int] = Field(strict=False)


_METADATA: Final = TypeAdapter(dict[str, str])
_HEADER: Final = TypeAdapter(dict[str, JsonValue])


def read_tensor_file(file: BinaryIO) -> TensorFile:
    """Return what an open file declares; it must be exactly as long as that.

    Raises:
        ValueError: not a safetensors file, truncated, padded, with gaps, or with
            tensors of other types than `WIDTHS`.
    """
    size = file.seek(0, 2)
    file.seek(0)
    prefix = file.read(ALIGNMENT)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == ALIGNMENT else size
    if length > min(size - ALIGNMENT, MAX_HEADER_BYTES):
        raise ValueError("it is truncated, or no safetensors file")
    header = _HEADER.validate_json(file.read(length))
    metadata = _METADATA.validate_python(header.pop(METADATA, {}))
    start = ALIGNMENT + length
    entries = {name: _Entry.model_validate(entry) for name, entry in header.items()}
    tensors: dict[str, Stored] = {}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        tensor = Stored(entry.dtype, tuple(entry.shape), start + end)
        if entry.dtype not in WIDTHS or min(entry.shape, default=0) < 0:
            raise ValueError(f"{name} is of type {entry.dtype}, shape {entry.shape}")
        if entry.data_offsets != (end, end + tensor.size_bytes):
            raise ValueError(f"{name} does not lie where its shape says")
        tensors[name] = tensor
        end = entry.data_offsets[1]
    if start + end != size:
        raise ValueError(f"it has {size} bytes where it declares {start + end}")
    return TensorFile(metadata, tensors)


def header_bytes(metadata: dict[str, str], tensors: dict[str, Stored]) -> bytes:
    """Return the header of a file that holds tensors one behind the other.

    Its length depends on the lengths of the metadata's values only, not on what they
    say; the data begin at a multiple of eight bytes.
    """
    header: dict[str, object] = {METADATA: metadata}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.size_bytes
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return struct.pack("<Q", len(text)) + text

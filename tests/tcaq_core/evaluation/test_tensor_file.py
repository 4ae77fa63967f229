import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tcaq_core.evaluation.tensor_file import (
    Stored,
    TensorFile,
    header_bytes,
    read_tensor_file,
)


def read(path: Path) -> TensorFile:
    with path.open("rb") as file:
        return read_tensor_file(file)


def write(path: Path, header: object, data: bytes) -> Path:
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def entry(begin: int, end: int, *, dtype: str = "F32", shape: object = None) -> object:
    shape = [(end - begin) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_a_file_of_the_library_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {
        "x": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "y": torch.zeros(5, dtype=torch.uint8),
        "z": torch.zeros(3, dtype=torch.bfloat16),
        "scalar": torch.tensor(1.0, dtype=torch.float64),
    }
    save_file(tensors, path, metadata={"k": "v"})
    found = read(path)
    assert found.metadata == {"k": "v"}
    assert found.tensors.keys() == tensors.keys()
    x = found.tensors["x"]
    assert (x.dtype, x.shape, x.size_bytes) == ("F32", (2, 3), 24)
    raw = path.read_bytes()[x.offset : x.offset + x.size_bytes]
    assert struct.unpack("<6f", raw) == (0, 1, 2, 3, 4, 5)


def test_a_header_of_ours_is_read_by_the_library(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {"m": Stored("F64", (2,)), "f": Stored("F32", (3, 1))}
    data = struct.pack("<2d3f", 1, 2, 3, 4, 5)
    header = header_bytes({"k": "v"}, tensors)
    assert len(header) % 8 == 0
    path.write_bytes(header + data)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"k": "v"}
        assert file.get_tensor("m").tolist() == [1, 2]
        assert file.get_tensor("f").tolist() == [[3], [4], [5]]
    assert read(path).tensors["f"].offset == len(header) + 16


@pytest.mark.parametrize(
    ("header", "num_bytes"),
    [
        ({"x": entry(0, 8)}, 7),
        ({"x": entry(0, 8)}, 9),
        ({"x": entry(4, 8)}, 8),
        ({"x": entry(0, 8), "y": entry(4, 12)}, 12),
        ({"x": entry(0, 8, shape=[3])}, 8),
        ({"x": entry(0, 8, shape=[-1, -2])}, 8),
        ({"x": entry(0, 8, shape=["2"])}, 8),
        ({"x": entry(0, 8, shape=[1] * 8 + [2])}, 8),
        ({"x": entry(0, 8, dtype="F128")}, 8),
        ({"x": {"dtype": "F32", "shape": [2]}}, 8),
        ({"x": [0, 8]}, 8),
        ({"__metadata__": {"k": 1}}, 0),
        ([], 0),
    ],
    ids=[
        *("short", "padded", "gap", "overlap", "shape", "negative", "text", "deep"),
        *("dtype", "nowhere", "list", "metadata", "no-object"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(
    tmp_path: Path, header: object, num_bytes: int
) -> None:
    path = write(tmp_path / "a", header, bytes(num_bytes))
    with pytest.raises(ValueError, match=r"."):
        read(path)


@pytest.mark.parametrize(
    "raw",
    [b"", b"1234567", struct.pack("<Q", 2**62), struct.pack("<Q", 2) + b"{]"],
    ids=["empty", "short", "endless", "text"],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"."):
        read(path)


def test_a_deeply_nested_header_is_refused(tmp_path: Path) -> None:
    raw = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    path = tmp_path / "a"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw)
    with pytest.raises(ValueError, match=r"."):
        read(path)

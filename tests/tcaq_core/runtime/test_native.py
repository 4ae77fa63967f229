"""The compiled library: built at installation, checked before it is trusted."""

import ctypes

import pytest
import torch

from tcaq_core.runtime import native
from tcaq_core.runtime.kernels import SoftmaxGrid
from tcaq_core.runtime.native import NativeMissing, load_native, log_values


def test_installation_built_it() -> None:
    assert load_native() is load_native()


def test_a_library_of_another_version_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native, "ABI", native.ABI + 1)
    load_native.cache_clear()
    try:
        with pytest.raises(NativeMissing, match="reinstall"):
            load_native()
    finally:
        monkeypatch.undo()
        load_native.cache_clear()


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "MODULE", "tcaq_core.runtime._not_built")
    load_native.cache_clear()
    try:
        with pytest.raises(NativeMissing, match="not built"):
            load_native()
    finally:
        monkeypatch.undo()
        load_native.cache_clear()


def test_a_file_that_is_no_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> ctypes.CDLL:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    load_native.cache_clear()
    try:
        with pytest.raises(NativeMissing, match="do not load"):
            load_native()
    finally:
        monkeypatch.undo()
        load_native.cache_clear()


def test_codes_are_centred_by_head_with_their_sums() -> None:
    codes = torch.arange(2 * 3 * 8, dtype=torch.uint8).view(2, 3, 8)
    centred = load_native().center(codes, heads=2)
    expected = codes.int().view(2, 3, 2, 4).transpose(1, 2) - 128
    assert torch.equal(centred.values.int(), expected)
    assert torch.equal(centred.over_depth.long(), expected.sum(-1))
    assert torch.equal(centred.over_length.long(), expected.sum(-2))


def test_a_logarithmic_table_ends_in_zero() -> None:
    grid = SoftmaxGrid(torch.tensor(0.5), torch.tensor(1.0), 3)
    expected = [0.5 / 2**k for k in range(8)] + [0.0]
    assert log_values(grid).tolist() == expected

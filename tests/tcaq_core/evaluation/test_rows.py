import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tcaq_core.errors import EvaluationFailed
from tcaq_core.evaluation.kernel_distance import TensorRows, kernel_distance
from tcaq_core.evaluation.precision_recall import precision_recall
from tcaq_core.evaluation.rows import FileRows, open_rows


def save(path: Path, features: torch.Tensor, name: str = "pooled") -> Path:
    # Another tensor before it, as a shard has: rows begin in the middle of the file.
    save_file({name: features, "wide": torch.zeros(3, dtype=torch.float64)}, path)
    return path


def spread(folder: Path, features: torch.Tensor, sizes: tuple[int, ...]) -> FileRows:
    parts = features.split(sizes)
    paths = [save(folder / f"{i}.safetensors", part) for i, part in enumerate(parts)]
    return open_rows(paths, tensor="pooled")


def test_rows_are_those_of_the_features_laid_one_behind_the_other(
    generator: torch.Generator, tmp_path: Path
) -> None:
    features = torch.randn(20, 5, generator=generator)
    rows = spread(tmp_path, features, (7, 1, 0, 12))
    assert (len(rows), rows.num_features) == (20, 5)
    for indices in (
        torch.arange(20),
        torch.randperm(20, generator=generator),
        torch.tensor([19, 0, 7, 7, 8, 6]),
        torch.arange(6, 9),
    ):
        assert torch.equal(rows.rows(indices), features[indices])
    assert rows.rows(torch.arange(0)).shape == (0, 5)


def test_distances_over_files_are_those_over_memory(
    generator: torch.Generator, tmp_path: Path
) -> None:
    features = torch.randn(60, 5, generator=generator)
    other = TensorRows(1.2 * torch.randn(50, 5, generator=generator))
    in_files, in_memory = spread(tmp_path, features, (25, 35)), TensorRows(features)
    assert kernel_distance(in_files, other, subset_size=20) == kernel_distance(
        in_memory, other, subset_size=20
    )
    assert precision_recall(in_files, other, chunk=16) == precision_recall(
        in_memory, other, chunk=16
    )


@pytest.mark.parametrize("index", [-1, 20])
def test_there_are_no_rows_outside(tmp_path: Path, index: int) -> None:
    rows = spread(tmp_path, torch.ones(20, 2), (10, 10))
    with pytest.raises(IndexError):
        rows.rows(torch.tensor([3, index]))


def test_rows_are_a_copy(tmp_path: Path) -> None:
    rows = spread(tmp_path, torch.ones(4, 2), (4,))
    rows.rows(torch.arange(4)).zero_()
    assert torch.equal(rows.rows(torch.arange(4)), torch.ones(4, 2))


def test_memory_and_open_files_do_not_grow(tmp_path: Path) -> None:
    rows = spread(tmp_path, torch.ones(40_000, 16), (10_000,) * 4)
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    tracemalloc.start()
    try:
        rows.rows(torch.arange(0, 40_000, 1000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000
    assert len(list(Path("/proc/self/fd").iterdir())) == open_files


def refused(paths: list[Path], words: str) -> None:
    with pytest.raises(EvaluationFailed, match=words) as caught:
        open_rows(paths, tensor="pooled")
    assert caught.value.hint


def test_files_without_such_rows_are_refused_by_name(tmp_path: Path) -> None:
    good = save(tmp_path / "good.safetensors", torch.ones(3, 2))
    other = save(tmp_path / "a.safetensors", torch.ones(3, 2), name="logits")
    refused([good, other], r"a\.safetensors.*no float32 pooled")
    double = save(tmp_path / "b.safetensors", torch.ones(3, 2).double())
    refused([double], r"b\.safetensors.*no float32 pooled")
    flat = save(tmp_path / "c.safetensors", torch.ones(3))
    refused([flat], r"c\.safetensors.*no float32 pooled")
    wide = save(tmp_path / "d.safetensors", torch.ones(3, 4))
    refused([good, wide], r"d\.safetensors.*4 wide")
    refused([good, tmp_path / "e.safetensors"], r"e\.safetensors.*gone")
    good.write_bytes(good.read_bytes()[:-1])
    refused([good], r"good\.safetensors.*damaged")
    refused([], "no features")


def test_a_file_that_shrank_or_went_is_refused(tmp_path: Path) -> None:
    rows = spread(tmp_path, torch.ones(4, 2), (2, 2))
    path = rows.parts[1].path
    path.write_bytes(path.read_bytes()[:-4])
    assert torch.equal(rows.rows(torch.tensor([0])), torch.ones(1, 2))
    for _ in range(2):
        with pytest.raises(EvaluationFailed, match=r"1\.safetensors"):
            rows.rows(torch.tensor([0, 3]))
        path.unlink(missing_ok=True)

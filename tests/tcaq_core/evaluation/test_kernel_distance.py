import itertools

import pytest
import torch

from tcaq_core.errors import EvaluationFailed, Interrupted
from tcaq_core.evaluation.kernel_distance import (
    TensorRows,
    kernel_distance,
    squared_mmd,
)


def rows(seed: int, n: int = 60, shift: float = 0.0) -> TensorRows:
    generator = torch.Generator().manual_seed(seed)
    return TensorRows(torch.randn(n, 5, generator=generator) + shift)


class Counting:
    """Rows that remember the most that were asked for at once."""

    def __init__(self, features: torch.Tensor) -> None:
        self.features = features
        self.asked: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.features)

    def rows(self, indices: torch.Tensor) -> torch.Tensor:
        self.asked.append(indices.tolist())
        return self.features[indices]


def test_it_is_the_double_sum_of_the_definition() -> None:
    x, y = rows(0, 4).features.double(), rows(1, 4).features.double()

    def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        return (float(a @ b) / 5 + 1) ** 3

    others = list(itertools.permutations(range(4), 2))
    within = sum(kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in others) / 12
    across = sum(kernel(a, b) for a in x for b in y) / 16
    assert squared_mmd(x, y) == pytest.approx(within - 2 * across, rel=1e-12)


def test_it_is_unbiased() -> None:
    # The same distribution: zero on average, and below zero about half the time.
    values = [
        squared_mmd(
            rows(2 * i, 20).features.double(), rows(2 * i + 1, 20).features.double()
        )
        for i in range(400)
    ]
    found = torch.tensor(values)
    assert abs(float(found.mean())) < 3 * float(found.std()) / 20
    assert 0.3 < float((found < 0).double().mean()) < 0.8


def test_a_seed_gives_the_same_subsets_again() -> None:
    sides = rows(0), rows(1, shift=0.5)
    again = [
        kernel_distance(*sides, seed=seed, num_subsets=5, subset_size=20)
        for seed in (3, 3, 4)
    ]
    assert again[0] == again[1]
    assert again[0] != again[2]
    assert again[0].mean > 0
    assert again[0].std > 0


def test_only_a_subset_is_read_at_a_time_and_no_image_twice_in_one() -> None:
    generated, reference = Counting(rows(0).features), Counting(rows(1, 40).features)
    found = kernel_distance(generated, reference, num_subsets=7, subset_size=16)
    assert (found.num_subsets, found.subset_size) == (7, 16)
    for store in (generated, reference):
        assert len(store.asked) == 7
        assert all(len(set(asked)) == 16 for asked in store.asked)
        assert len(set(map(tuple, store.asked))) == 7


def test_a_subset_has_at_most_as_many_images_as_there_are() -> None:
    found = kernel_distance(rows(0, 30), rows(1, 9), num_subsets=3)
    assert found.subset_size == 9


def test_the_mean_and_deviation_are_over_subsets() -> None:
    store = rows(0, 2), rows(1, 2, shift=1.0)
    # A subset of everything is always the same.
    found = kernel_distance(*store, num_subsets=4)
    x, y = (side.features.double() for side in store)
    assert found.mean == pytest.approx(squared_mmd(x, y), rel=1e-12)
    assert found.std == pytest.approx(0, abs=1e-12)


def test_what_has_no_distance_is_refused() -> None:
    with pytest.raises(EvaluationFailed, match="subsets of 1 images"):
        kernel_distance(rows(0, 1), rows(1))
    wide = TensorRows(torch.zeros(9, 6))
    with pytest.raises(EvaluationFailed, match="5 features each, the reference 6"):
        kernel_distance(rows(0), wide)
    broken = TensorRows(torch.full((9, 5), torch.nan))
    with pytest.raises(EvaluationFailed, match="NaN"):
        kernel_distance(rows(0), broken)


def test_a_caller_can_end_it_between_subsets() -> None:
    ticks: list[None] = []

    def tick() -> None:
        ticks.append(None)
        if len(ticks) == 3:
            raise Interrupted("asked to stop", hint="none")

    with pytest.raises(Interrupted):
        kernel_distance(rows(0), rows(1), num_subsets=9, tick=tick)
    assert len(ticks) == 3

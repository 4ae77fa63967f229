import numpy as np
import pytest
import torch

from tcaq_core.evaluation.kernel_distance import SUBSET_SIZE, TensorRows
from tcaq_core.evaluation.network_scores import kernel, manifold

NUM_RUNS = 24
SIZE = 10


def _nothing() -> None:
    pass


def _features(num_images: int, seed: int) -> TensorRows:
    generator = torch.Generator().manual_seed(seed)
    return TensorRows(torch.randn(num_images, 2, generator=generator) + 1)


@pytest.mark.parametrize("num_subsets", [2, 150])
def test_the_kernel_distance_s_interval_is_as_wide_as_its_spread(
    num_subsets: int,
) -> None:
    reference = TensorRows(torch.randn(2000, 2, generator=torch.Generator()))
    found = [
        kernel(
            _features(SIZE * num_subsets, seed),
            reference,
            subset_size=SIZE,
            tick=_nothing,
        )
        for seed in range(NUM_RUNS)
    ]
    spread = np.std([one.value for one in found if one.value is not None], ddof=1)
    widths = [one.bounds[1] - one.bounds[0] for one in found if one.bounds]
    assert len(widths) == NUM_RUNS
    # 95 % of a normal distribution; not more than twice as wide as it must be.
    assert 0.8 < np.mean(widths) / (2 * 1.96 * spread) < 2


def test_fewer_images_than_two_subsets_have_no_interval() -> None:
    reference = _features(SUBSET_SIZE, 1)
    found = kernel(_features(2 * SUBSET_SIZE - 1, 0), reference, tick=_nothing)
    assert found.bounds is None
    assert "two subsets" in found.notes[0]


@pytest.mark.parametrize(("num_images", "has_interval"), [(4, False), (5, True)])
def test_a_manifold_of_very_few_images_has_a_value_all_the_same(
    num_images: int, *, has_interval: bool
) -> None:
    found = manifold(_features(num_images, 0), _features(8, 1), tick=_nothing)
    for one in (found.precision, found.recall):
        assert one.value is not None
        assert (one.bounds is not None) is has_interval
        assert bool(one.notes) is not has_interval

"""Our metrics and torch-fidelity's on the same features."""

import sys
from types import ModuleType
from typing import Any

import pytest
import torch

from tcaq_core.evaluation.classifier_score import ClassifierSums, merge_sums
from tcaq_core.evaluation.frechet import Gaussian, frechet_distance
from tcaq_core.evaluation.kernel_distance import TensorRows, kernel_distance
from tcaq_core.evaluation.moments import FeatureMoments
from tcaq_core.evaluation.precision_recall import precision_recall
from tests.tcaq_core.evaluation.fidelity import MODULES, import_torch_fidelity

__all__ = ["import_torch_fidelity"]

Sides = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(params=[(40, 300, 400), (64, 900, 700)], ids=str)
def sides(request: pytest.FixtureRequest) -> Sides:
    """Return features of generated and of real images: skewed, correlated, unlike."""
    num_features, num_generated, num_real = request.param
    generator = torch.Generator().manual_seed(num_features)
    mixing = torch.randn(num_features, num_features, generator=generator) / 6
    generated, real = (
        torch.randn(n, num_features, generator=generator) @ mixing
        for n in (num_generated, num_real)
    )
    return (1.1 * generated + 0.2).relu(), (real + 0.1).relu()


def test_the_package_is_there_and_its_stand_in_is_gone(
    torch_fidelity: ModuleType,
) -> None:
    assert all(hasattr(torch_fidelity, name) for name in MODULES)
    assert "torchvision" not in sys.modules
    assert torch_fidelity.__version__ == "0.4.0"


def test_frechet_distance(torch_fidelity: Any, sides: Sides) -> None:  # noqa: ANN401 - no types
    theirs = torch_fidelity.metric_fid
    statistics = [theirs.fid_features_to_statistics(x.double()) for x in sides]
    expected = theirs.fid_statistics_to_metric(*statistics, verbose=False)
    shards = [[FeatureMoments.of(x) for x in side.split(250)] for side in sides]
    generated, real = (Gaussian.of(sum(parts[1:], parts[0])) for parts in shards)
    found = frechet_distance(generated, real)
    assert found == pytest.approx(expected["frechet_inception_distance"], rel=1e-9)


@pytest.mark.parametrize("seed", [2020, 7])
def test_kernel_distance_with_the_same_seed(
    torch_fidelity: Any,  # noqa: ANN401 - no types
    sides: Sides,
    seed: int,
) -> None:
    # Float64 features: with float32 they compute in float32, and differ by 1e-5.
    expected = torch_fidelity.metric_kid.kid_features_to_metric(
        *(x.double() for x in sides),
        kid_subsets=20,
        kid_subset_size=100,
        rng_seed=seed,
        verbose=False,
    )
    found = kernel_distance(
        *map(TensorRows, sides), seed=seed, num_subsets=20, subset_size=100
    )
    assert found.mean == pytest.approx(
        expected["kernel_inception_distance_mean"], rel=1e-9
    )
    assert found.std == pytest.approx(
        expected["kernel_inception_distance_std"], rel=1e-9
    )


def test_inception_score_with_the_same_splits(
    torch_fidelity: Any,  # noqa: ANN401 - no types
    sides: Sides,
) -> None:
    logits = 4 * sides[0]
    expected = torch_fidelity.metric_isc.isc_features_to_metric(
        logits, splits=10, shuffle=False
    )
    shards = [
        ClassifierSums.of(part, first=70 * i, num_images=len(logits))
        for i, part in enumerate(logits.split(70))
    ]
    found = merge_sums(shards).score()
    assert found.mean == pytest.approx(expected["inception_score_mean"], rel=1e-12)
    assert found.std == pytest.approx(expected["inception_score_std"], rel=1e-9)


@pytest.mark.parametrize("neighbours", [3, 5])
def test_precision_and_recall_the_right_way_round(
    torch_fidelity: Any,  # noqa: ANN401 - no types
    sides: Sides,
    neighbours: int,
) -> None:
    expected = torch_fidelity.metric_prc.prc_features_to_metric(
        *(x.double() for x in sides),
        prc_neighborhood=neighbours,
        prc_batch_size=128,
        save_cpu_ram=True,
        verbose=False,
    )
    found = precision_recall(*map(TensorRows, sides), neighbours=neighbours, chunk=100)
    assert found.precision != found.recall
    assert found.precision == pytest.approx(expected["precision"], abs=1e-7)
    assert found.recall == pytest.approx(expected["recall"], abs=1e-7)

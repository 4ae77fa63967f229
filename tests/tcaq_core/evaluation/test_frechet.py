import dataclasses

import numpy as np
import pytest
import scipy.linalg  # type: ignore[import-untyped]
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tcaq_core.errors import EvaluationFailed
from tcaq_core.evaluation.frechet import Gaussian, ReferenceRoot, frechet_distance
from tcaq_core.evaluation.moments import FeatureMoments


def gaussian(mean: torch.Tensor, covariance: torch.Tensor, n: int = 1000) -> Gaussian:
    return Gaussian(mean.double(), covariance.double(), n)


def drawn(seed: int, num_features: int = 12, n: int = 200) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(num_features, num_features, generator=generator)
    x = torch.randn(n, num_features, generator=generator) @ mixing
    return Gaussian.of(FeatureMoments.of(x + torch.rand(1, generator=generator)))


def rotated(values: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Return a covariance with these eigenvalues."""
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(
        len(values), len(values), generator=generator, dtype=torch.float64
    )
    basis = torch.linalg.qr(square).Q
    full: torch.Tensor = (basis * values) @ basis.T
    return full / 2 + full.T / 2


def test_one_feature_is_the_difference_of_means_and_deviations() -> None:
    a = gaussian(torch.tensor([1.0]), torch.tensor([[9.0]]))
    b = gaussian(torch.tensor([3.0]), torch.tensor([[4.0]]))
    # The means are 2 apart, the deviations 1.
    assert frechet_distance(a, b) == pytest.approx(5.0, rel=1e-14)


def test_it_is_the_textbook_s_with_scipy_s_square_root() -> None:
    a, b = drawn(1), drawn(2)
    root = scipy.linalg.sqrtm((a.covariance @ b.covariance).numpy())
    gap = (a.mean - b.mean).square().sum()
    traces = a.covariance.trace() + b.covariance.trace()
    expected = float(gap + traces) - 2 * float(np.trace(root).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)


@given(st.integers(0, 10_000), st.integers(1, 8))
@settings(deadline=None, max_examples=25)
def test_it_is_symmetric_positive_and_blind_to_rotations(seed: int, width: int) -> None:
    a, b = drawn(seed, width, 40), drawn(seed + 1, width, 40)
    distance = frechet_distance(a, b)
    assert distance > 0
    assert frechet_distance(b, a) == pytest.approx(distance, rel=1e-9, abs=1e-11)
    basis = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64)).Q

    def turned(x: Gaussian) -> Gaussian:
        return Gaussian(basis @ x.mean, basis @ x.covariance @ basis.T, x.n)

    assert frechet_distance(turned(a), turned(b)) == pytest.approx(
        distance, rel=1e-9, abs=1e-11
    )


def test_many_distances_share_a_root() -> None:
    reference = drawn(0)
    root = ReferenceRoot.of(reference)
    for seed in (1, 2):
        assert root.distance(drawn(seed)) == frechet_distance(drawn(seed), reference)


@pytest.mark.parametrize("decades", [0, 4, 8, 12, 16])
def test_equal_gaussians_are_at_no_distance_however_ill_conditioned(
    decades: int,
) -> None:
    values = torch.logspace(0, -decades, 96, dtype=torch.float64)
    a = gaussian(torch.ones(96), rotated(values))
    assert 0 <= frechet_distance(a, a) <= 1e-12 * float(a.covariance.trace())


@pytest.mark.parametrize("decades", [8, 12])
def test_small_variances_keep_their_share_of_the_distance(decades: int) -> None:
    values = torch.logspace(0, -decades, 96, dtype=torch.float64)
    # The same axes, so the distance is that of the deviations, axis by axis.
    a = gaussian(torch.zeros(96), rotated(values))
    b = gaussian(torch.zeros(96), rotated(values * 1.21))
    expected = float((values.sqrt() * 0.1).square().sum())
    assert frechet_distance(a, b) == pytest.approx(expected, abs=1e-12)


def test_a_covariance_of_low_rank_is_exact() -> None:
    # Features that never vary, as dead units, on one side, on the other and on both.
    a = gaussian(torch.zeros(4), rotated(torch.tensor([4.0, 1, 0, 0]).double()))
    b = gaussian(torch.zeros(4), rotated(torch.tensor([1.0, 0, 9, 0]).double()))
    # Deviations of 2 and 1, 1 and 0, 0 and 3 along the same axes.
    assert frechet_distance(a, b) == pytest.approx(11.0, rel=1e-12)
    assert frechet_distance(b, a) == pytest.approx(11.0, rel=1e-12)


def test_one_singular_covariance_costs_half_the_digits_at_most() -> None:
    values = torch.rand(64, generator=torch.Generator().manual_seed(0)).double() + 0.1
    fewer = torch.where(torch.arange(64) < 32, 1.5 * values, 0)
    full, singular = (
        gaussian(torch.zeros(64), rotated(spread)) for spread in (values, fewer)
    )
    expected = float((values.sqrt() - fewer.sqrt()).square().sum())
    traces = float((values + fewer).sum())
    exact = frechet_distance(full, reference=singular)
    assert exact == pytest.approx(expected, abs=1e-13 * traces)
    rounded = frechet_distance(singular, reference=full)
    assert rounded == pytest.approx(expected, abs=3e-8 * traces)


def test_images_that_are_all_alike_have_a_distance() -> None:
    point = gaussian(torch.zeros(3), torch.zeros(3, 3))
    spread = gaussian(torch.full((3,), 2.0), torch.eye(3))
    assert frechet_distance(spread, point) == pytest.approx(15.0)
    assert frechet_distance(point, spread) == pytest.approx(15.0)
    assert frechet_distance(point, point) == 0


def test_too_few_images_are_refused_with_how_many_are_needed() -> None:
    enough = drawn(0, num_features=5)
    few = dataclasses.replace(enough, n=5)
    for pair in ((few, enough), (enough, few)):
        with pytest.raises(EvaluationFailed, match="at least 6 are needed") as refused:
            frechet_distance(*pair)
        assert "6 images" in refused.value.hint
    assert frechet_distance(dataclasses.replace(enough, n=6), enough) >= 0


def test_features_of_another_width_are_refused() -> None:
    with pytest.raises(EvaluationFailed, match="6 features each, the reference 5"):
        frechet_distance(drawn(0, 6), drawn(0, 5))


@pytest.mark.parametrize("least", [-1e-3, torch.nan])
def test_what_is_no_covariance_is_refused(least: float) -> None:
    sound = gaussian(torch.zeros(3), torch.eye(3))
    broken = gaussian(torch.zeros(3), torch.diag(torch.tensor([1.0, 2.0, least])))
    for pair in ((broken, sound), (sound, broken)):
        with pytest.raises(EvaluationFailed):
            frechet_distance(*pair)


def test_rounding_below_zero_is_no_negative_variance() -> None:
    sound = gaussian(torch.zeros(2), torch.eye(2))
    rounded = gaussian(
        torch.zeros(2), torch.diag(torch.tensor([1.0, -1e-15], dtype=torch.float64))
    )
    assert frechet_distance(rounded, sound) == pytest.approx(1.0)
    assert frechet_distance(sound, rounded) == pytest.approx(1.0)

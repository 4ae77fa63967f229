from itertools import pairwise

import numpy as np
import pytest
import torch

from tcaq_core.errors import EvaluationFailed
from tcaq_core.evaluation.moments import (
    FeatureMoments,
    merge_moments,
    refuse_not_finite,
)


@pytest.fixture
def features() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator)
    return torch.randn(101, 6, generator=generator) @ mixing + 3


def shards_of(features: torch.Tensor, *edges: int) -> list[torch.Tensor]:
    return [features[a:b] for a, b in pairwise((0, *edges, len(features)))]


def test_mean_and_covariance_are_numpy_s(features: torch.Tensor) -> None:
    found = FeatureMoments.of(features)
    exact = features.double().numpy()
    np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-13)
    np.testing.assert_allclose(
        found.covariance, np.cov(exact, rowvar=False), rtol=1e-11, atol=1e-12
    )


def test_the_covariance_is_exactly_symmetric(features: torch.Tensor) -> None:
    covariance = FeatureMoments.of(features).covariance
    assert torch.equal(covariance, covariance.T)


def test_merging_is_a_sum_in_order(features: torch.Tensor) -> None:
    parts = [FeatureMoments.of(x) for x in shards_of(features, 30, 60, 90)]
    merged = merge_moments(iter(parts))
    by_hand = parts[0].outer + parts[1].outer + parts[2].outer + parts[3].outer
    assert merged.n == 101
    assert torch.equal(merged.outer, by_hand)
    whole = FeatureMoments.of(features)
    torch.testing.assert_close(merged.sum, whole.sum, rtol=1e-13, atol=0)
    torch.testing.assert_close(merged.covariance, whole.covariance)


def test_a_part_can_be_left_out(features: torch.Tensor) -> None:
    left, right = (FeatureMoments.of(x) for x in shards_of(features, 40))
    rest = left + right - left
    assert rest.n == right.n
    torch.testing.assert_close(rest.mean, right.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        rest.covariance, right.covariance, rtol=1e-11, atol=1e-12
    )


def test_an_origin_near_the_mean_saves_the_covariance_s_digits() -> None:
    generator = torch.Generator().manual_seed(0)
    far = torch.randn(500, 3, generator=generator, dtype=torch.float64) + 1e7
    exact = torch.from_numpy(np.cov((far - 1e7).numpy(), rowvar=False))
    about_zero = FeatureMoments.of(far)
    origin = torch.full((3,), 1e7, dtype=torch.float64)
    about_mean = FeatureMoments.of(far, origin=origin)
    torch.testing.assert_close(about_mean.covariance, exact, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(about_mean.mean, far.mean(0), rtol=1e-12, atol=0)
    assert float((about_zero.covariance - exact).abs().max()) > 1e-4


def test_moments_about_different_origins_are_not_merged(
    features: torch.Tensor,
) -> None:
    a = FeatureMoments.of(features)
    b = FeatureMoments.of(features, origin=a.mean)
    with pytest.raises(EvaluationFailed, match="different origins"):
        merge_moments([a, b])
    with pytest.raises(EvaluationFailed, match="different widths"):
        _ = a - FeatureMoments.of(features[:, :5])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_features_that_are_not_finite_are_refused(
    features: torch.Tensor, bad: float
) -> None:
    features[7, 2] = bad
    with pytest.raises(EvaluationFailed, match="1 of 101 images are NaN"):
        FeatureMoments.of(features)


def test_bfloat16_is_no_currency() -> None:
    # Where a shard would be rounded before it is summed.
    with pytest.raises(TypeError):
        FeatureMoments.of(torch.ones(3, 2, dtype=torch.bfloat16))


def test_too_few_images_have_no_moments(features: torch.Tensor) -> None:
    one = FeatureMoments.of(features[:1])
    assert torch.equal(one.mean, features[0].double())
    with pytest.raises(EvaluationFailed, match="1 images"):
        _ = one.covariance
    with pytest.raises(EvaluationFailed, match="0 images"):
        _ = (one - one).mean
    with pytest.raises(EvaluationFailed, match="no moments"):
        merge_moments([])


def test_finite_values_pass() -> None:
    refuse_not_finite(torch.tensor([[3.4e38, -3.4e38]]))

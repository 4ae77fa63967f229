import math
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import scipy.stats  # type: ignore[import-untyped]
import torch

from tcaq_core.errors import EvaluationFailed, Interrupted
from tcaq_core.evaluation.frechet import Gaussian, ReferenceRoot
from tcaq_core.evaluation.jackknife import (
    Replicates,
    consecutive_groups,
    jackknife_interval,
    leave_one_out,
    mean_interval,
    paired_difference,
    standard_error,
    student_t_quantile,
)
from tcaq_core.evaluation.moments import FeatureMoments


@dataclass(frozen=True)
class Total:
    """The simplest sums there are."""

    n: int
    total: float

    def __add__(self, other: "Total") -> "Total":
        return Total(self.n + other.n, self.total + other.total)

    def __sub__(self, other: "Total") -> "Total":
        return Total(self.n - other.n, self.total - other.total)


def mean_of(sums: Total) -> float:
    return sums.total / sums.n


def groups_of(values: list[float], *, size: int = 1) -> list[Total]:
    return [
        Total(len(part), sum(part))
        for start in range(0, len(values), size)
        if (part := values[start : start + size])
    ]


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 9, 18, 19, 20, 99, 255, 1999])
def test_the_quantile_is_student_s(degrees: int) -> None:
    expected = scipy.stats.t.ppf(0.975, degrees)
    assert student_t_quantile(degrees) == pytest.approx(expected, rel=1e-11)
    expected = scipy.stats.t.ppf(0.84, degrees)
    found = student_t_quantile(degrees, coverage=0.68)
    assert found == pytest.approx(expected, rel=1e-11)


def test_groups_are_consecutive_and_as_equal_as_can_be() -> None:
    groups = consecutive_groups(47, max_groups=20)
    assert [i for group in groups for i in group] == list(range(47))
    assert len(groups) == 20
    assert {len(group) for group in groups} == {2, 3}
    assert consecutive_groups(3) == (range(1), range(1, 2), range(2, 3))
    with pytest.raises(EvaluationFailed, match="no images"):
        consecutive_groups(0)


def test_a_mean_s_error_is_the_classical_one() -> None:
    values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0]
    found = leave_one_out(groups_of(values), mean_of)
    spread = torch.tensor(values, dtype=torch.float64)
    classical = float(spread.std()) / math.sqrt(7)
    assert found.value == pytest.approx(float(spread.mean()))
    assert standard_error(found) == pytest.approx(classical, rel=1e-12)
    interval = jackknife_interval(found)
    half = scipy.stats.t.ppf(0.975, 6) * classical
    assert interval.low == pytest.approx(found.value - half, rel=1e-12)
    assert interval.high == pytest.approx(found.value + half, rel=1e-12)
    assert "7 groups" in interval.method


def test_equal_groups_have_the_usual_formula() -> None:
    found = Replicates(2.0, (1.9, 2.2, 2.1, 1.7), (5, 5, 5, 5))
    # (G - 1) / G sum (s_g - mean s)^2, mean s = 1.975
    variance = 3 / 4 * (0.075**2 + 0.225**2 + 0.125**2 + 0.275**2)
    assert standard_error(found) == pytest.approx(math.sqrt(variance), rel=1e-12)


def test_a_short_last_group_does_not_count_as_much_as_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    ratios = []
    for _ in range(300):
        values = torch.randn(41, generator=generator, dtype=torch.float64).tolist()
        # Groups of 10, 10, 10, 10 and 1; the truth is 1 / sqrt(41).
        found = leave_one_out(groups_of(values, size=10), mean_of)
        ratios.append(standard_error(found) ** 2 * 41)
    assert sum(ratios) / 300 == pytest.approx(1, abs=0.15)


def test_a_pair_s_interval_is_that_of_the_difference() -> None:
    base = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0]
    other = [x + 0.5 + 0.01 * (-1) ** i for i, x in enumerate(base)]
    a, b = (leave_one_out(groups_of(x), mean_of) for x in (other, base))
    difference = paired_difference(a, b)
    assert difference.value == pytest.approx(0.5)
    # The images' own spread, common to both, is gone.
    by_hand = float(torch.tensor([0.01, -0.01] * 4, dtype=torch.float64).std())
    expected = by_hand / math.sqrt(8)
    assert standard_error(difference) == pytest.approx(expected, rel=1e-9)
    assert standard_error(a) > 50 * standard_error(difference)


def test_pairs_of_different_groups_are_refused() -> None:
    values = [1.0, 2.0, 3.0, 4.0]
    a = leave_one_out(groups_of(values), mean_of)
    b = leave_one_out(groups_of(values, size=2), mean_of)
    with pytest.raises(EvaluationFailed, match="different groups"):
        paired_difference(a, b)


def test_what_has_no_interval_is_refused() -> None:
    with pytest.raises(EvaluationFailed, match="two groups"):
        leave_one_out(groups_of([1.0]), mean_of)
    with pytest.raises(EvaluationFailed, match="not finite"):
        leave_one_out(groups_of([1.0, 2.0]), lambda sums: math.inf * sums.n)


def test_groups_are_read_one_at_a_time() -> None:
    # Images' features lie in files: no group is asked for out of turn.
    values = groups_of([1.0, 2.0, 4.0])
    asked: list[int] = []

    class Lazy(list[Total]):
        def __iter__(self) -> Iterator[Total]:
            for index in range(3):
                asked.append(index)
                yield values[index]

    found = leave_one_out(Lazy(values), mean_of)
    assert asked == [0, 1, 2, 0, 1, 2]
    assert found.without == (3.0, 2.5, 1.5)


def frechet_replicates(features: torch.Tensor, root: ReferenceRoot) -> Replicates:
    groups = [
        FeatureMoments.of(features[group.start : group.stop])
        for group in consecutive_groups(len(features))
    ]
    return leave_one_out(groups, lambda sums: root.distance(Gaussian.of(sums)))


def test_a_frechet_distance_s_interval_holds_in_nineteen_of_twenty_runs() -> None:
    generator = torch.Generator().manual_seed(0)
    num_features, n = 4, 600
    reference = torch.randn(n, num_features, generator=generator)
    root = ReferenceRoot.of(Gaussian.of(FeatureMoments.of(reference)))
    runs = [
        frechet_replicates(
            1.2 * torch.randn(n, num_features, generator=generator) + 0.3, root
        )
        for _ in range(150)
    ]
    # What it covers: the score at n images, over the images.
    truth = sum(run.value for run in runs) / len(runs)
    intervals = [jackknife_interval(run) for run in runs]
    held = sum(i.low <= truth <= i.high for i in intervals)
    assert 0.88 <= held / len(runs) <= 0.99


def test_a_caller_can_end_it_between_groups() -> None:
    scores: list[float] = []

    def score(sums: Total) -> float:
        scores.append(mean_of(sums))
        return scores[-1]

    def tick() -> None:
        if len(scores) == 3:
            raise Interrupted("asked to stop", hint="none")

    with pytest.raises(Interrupted):
        leave_one_out(groups_of([1.0, 2.0, 3.0, 4.0]), score, tick=tick)
    assert len(scores) == 3


def test_a_mean_over_images_has_student_s_interval() -> None:
    values = torch.tensor([30.0, 31.0, 35.0, 28.0])
    interval = mean_interval(values)
    assert interval is not None
    low, high = scipy.stats.t.interval(
        0.95, 3, loc=31.0, scale=scipy.stats.sem(values.numpy())
    )
    assert interval.low == pytest.approx(low, rel=1e-6)
    assert interval.high == pytest.approx(high, rel=1e-6)
    assert interval.method == "Student t over 4 values"


def test_one_value_and_infinite_ones_have_no_interval() -> None:
    assert mean_interval(torch.tensor([30.0])) is None
    assert mean_interval(torch.tensor([30.0, math.inf])) is None
    with pytest.raises(EvaluationFailed, match="NaN"):
        mean_interval(torch.tensor([30.0, math.nan, math.inf]))

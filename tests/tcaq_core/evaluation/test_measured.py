import pytest

from tcaq_core.evaluation.measured import Spread


def test_the_interval_is_students_t_with_the_spreads_variance() -> None:
    spread = Spread((1.0, 2.0, 3.0), 1 / 3, "three parts")
    found = spread.interval(2.0)
    # t(2) = 4.303, standard deviation 1.
    assert found.high - 2.0 == pytest.approx(4.3027 * (1 / 3) ** 0.5, rel=1e-4)
    assert 2.0 - found.low == pytest.approx(found.high - 2.0)
    assert found.method == "three parts"


def test_what_moves_both_alike_cancels_in_the_difference() -> None:
    own = Spread((1.0, 2.0, 3.0), 0.5, "parts")
    beside = Spread((0.5, 1.5, 2.5), 0.5, "parts")
    found = own.minus(beside).interval(0.5)
    assert (found.low, found.high) == (0.5, 0.5)

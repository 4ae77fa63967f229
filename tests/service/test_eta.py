from datetime import UTC, datetime, timedelta

import pytest

from service.eta import estimate

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """Return a moment after noon."""
    return NOON + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("fraction", "seconds"), [(0.0, 100), (0.01, 100), (0.5, 4), (1.0, 100), (0.5, -3)]
)
def test_without_evidence_there_is_no_estimate(fraction: float, seconds: float) -> None:
    assert estimate(fraction=fraction, started_at=NOON, seen_at=at(seconds)) is None


def test_what_is_left_takes_as_long_in_proportion() -> None:
    eta = estimate(fraction=0.2, started_at=NOON, seen_at=at(60))
    assert eta is not None
    assert eta.seconds == 240.0


def test_what_an_earlier_attempt_did_took_this_one_no_time() -> None:
    eta = estimate(fraction=0.6, started_at=NOON, seen_at=at(60), resumed=0.5)
    assert eta is not None
    assert eta.seconds == 240.0
    assert not estimate(fraction=0.5, started_at=NOON, seen_at=at(60), resumed=0.5)


def test_the_bounds_lie_around_the_estimate_and_close_in() -> None:
    etas = [
        estimate(fraction=fraction, started_at=NOON, seen_at=at(1000 * fraction))
        for fraction in (0.1, 0.5, 0.9)
    ]
    widths = []
    for eta in etas:
        assert eta is not None
        assert 0 < eta.low < eta.seconds < eta.high
        widths.append(eta.high / eta.low)
    assert widths == sorted(widths, reverse=True)

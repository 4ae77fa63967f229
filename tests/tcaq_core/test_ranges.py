import pytest
import torch

from tcaq_core.observation import Seen
from tcaq_core.ranges import (
    POWER,
    Criterion,
    group_ranges,
    range_loss,
    shared_range,
    step_ranges,
    with_tail,
)


def seen_of(*at_steps: torch.Tensor) -> Seen:
    low = torch.stack([x.amin() for x in at_steps])
    high = torch.stack([x.amax() for x in at_steps])
    return Seen(low, high, [[x] for x in at_steps])


def drifting(generator: torch.Generator) -> Seen:
    spreads = (0.3, 1.0, 1.1, 6.0)
    draws = [s * torch.randn(2000, generator=generator).abs() for s in spreads]
    return seen_of(*[x - 0.28 for x in draws])


@pytest.mark.parametrize("num_bits", [4, 8])
def test_a_step_s_own_range_never_loses_to_the_shared_one_at_that_step(
    generator: torch.Generator, num_bits: int
) -> None:
    seen = drifting(generator)
    shared = shared_range(seen, "mse", num_bits=num_bits)
    own = step_ranges(seen, "mse", num_bits=num_bits)
    for s, (at_step,) in enumerate(seen.values):
        values = with_tail(at_step, seen.low[s], seen.high[s])
        losses = [
            range_loss(values, *pair, num_bits=num_bits, power=POWER)
            for pair in ((own[0, s], own[1, s]), shared)
        ]
        assert float(losses[0]) <= float(losses[1])


@pytest.mark.parametrize("criterion", ["min_max", "percentile", "mse"])
def test_a_step_that_shows_nothing_takes_the_shared_range(
    generator: torch.Generator, criterion: Criterion
) -> None:
    seen = seen_of(torch.randn(100, generator=generator), torch.zeros(100))
    own = step_ranges(seen, criterion, num_bits=4)
    shared = torch.stack(shared_range(seen, criterion, num_bits=4))
    assert torch.equal(own[:, 1], shared)


def test_a_point_away_from_zero_has_a_range(generator: torch.Generator) -> None:
    seen = seen_of(torch.randn(100, generator=generator), torch.full((9,), 3.5))
    low, high = step_ranges(seen, "mse", num_bits=8)[:, 1]
    error = range_loss(torch.full((9,), 3.5), low, high, num_bits=8, power=2.0)
    assert float(error) < 1e-4


def test_a_group_s_range_covers_its_steps_only(generator: torch.Generator) -> None:
    seen = drifting(generator)
    ranges = group_ranges(seen, [0, 1, 1, 2], "min_max", num_bits=4)
    assert ranges.shape == (2, 3)
    assert ranges[1].tolist() == [
        float(seen.high[0]),
        float(seen.high[1:3].amax()),
        float(seen.high[3]),
    ]

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tcaq_core.timesteps import TimestepCursor, TimestepGroups


@given(st.integers(1, 1000), st.integers(1, 50))
def test_groups_are_an_ordered_even_partition(num_timesteps: int, num: int) -> None:
    num = min(num, num_timesteps)
    group = TimestepGroups(num_timesteps, num).of(torch.arange(num_timesteps))
    assert sorted(set(group.tolist())) == list(range(num))
    assert bool((group.diff() >= 0).all())
    sizes = torch.bincount(group)
    assert int(sizes.max() - sizes.min()) <= 1


def test_timesteps_outside_the_schedule_take_the_nearest_group() -> None:
    group = TimestepGroups(1000, 10).of(torch.tensor([-5, 2000]))
    assert group.tolist() == [0, 9]


def test_the_cursor_refuses_to_be_read_outside_and_to_nest() -> None:
    cursor = TimestepCursor()
    with pytest.raises(RuntimeError, match="outside"):
        _ = cursor.t
    with cursor.at(torch.tensor([3])):
        assert cursor.t.tolist() == [3]
        with pytest.raises(RuntimeError, match="one writer"), cursor.at(cursor.t):
            pass
    with pytest.raises(RuntimeError, match="outside"):
        _ = cursor.t

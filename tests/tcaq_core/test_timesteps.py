import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tcaq_core.timesteps import SamplerSteps, TimestepCursor, TimestepGroups


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


def test_the_steps_of_data_are_its_timesteps_falling() -> None:
    steps = SamplerSteps.of_data(torch.tensor([1, 981, 501, 501, 981]))
    assert steps.timesteps == (981, 501, 1)
    assert len(steps) == 3


@given(st.sets(st.integers(0, 999), min_size=1, max_size=50), st.integers(0, 999))
def test_a_timestep_belongs_to_the_nearest_step(visited: set[int], t: int) -> None:
    steps = SamplerSteps(tuple(sorted(visited, reverse=True)))
    index = int(steps.index(torch.tensor([t])))
    assert abs(steps.timesteps[index] - t) == min(abs(v - t) for v in visited)


def test_a_timestep_between_two_steps_belongs_to_the_one_sampled_later() -> None:
    steps = SamplerSteps((30, 20, 10))
    assert steps.index(torch.tensor([25, 15, 14, 16])).tolist() == [1, 2, 2, 1]


def test_another_sampler_finds_a_step_for_each_of_its_timesteps() -> None:
    steps = SamplerSteps((801, 601, 401, 201, 1))
    index = steps.index(torch.arange(999, -1, -20))
    assert sorted(set(index.tolist())) == [0, 1, 2, 3, 4]
    assert bool((index.diff() >= 0).all())


def test_the_cursor_s_step_follows_its_timestep() -> None:
    cursor = TimestepCursor()
    with (
        cursor.at(torch.tensor([3])),
        pytest.raises(RuntimeError, match="no steps are set"),
    ):
        _ = cursor.step
    cursor.steps = SamplerSteps((900, 500, 100))
    with pytest.raises(RuntimeError, match="outside"):
        _ = cursor.step
    with cursor.at(torch.tensor([950, 120])):
        assert cursor.step.tolist() == [0, 2]
    with cursor.at(torch.tensor([480])):
        assert cursor.step.tolist() == [1]


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

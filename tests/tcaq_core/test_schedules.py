import torch

from tcaq_core.functional import affine_params, fake_quantize
from tcaq_core.observation import Seen
from tcaq_core.schedules import (
    RangeFunctions,
    Tensors,
    learn_functions,
    learn_groups,
    mixture_form,
    range_errors,
    spread_ranges,
    tensors_of,
)
from tcaq_core.timesteps import SamplerSteps

STEPS = SamplerSteps((900, 700, 500, 300, 100))
# Two tensors: one grows as t falls, one never changes.
SPREADS = ((1.0, 2.0, 4.0, 8.0, 16.0), (1.0,) * 5)


def seen_of(spreads: tuple[float, ...], generator: torch.Generator) -> Seen:
    values = [s * torch.randn(4000, generator=generator) for s in spreads]
    return Seen(
        torch.stack([v.amin() for v in values]),
        torch.stack([v.amax() for v in values]),
        [[v] for v in values],
    )


def example(generator: torch.Generator) -> tuple[list[Seen], Tensors]:
    seen = [seen_of(spreads, generator) for spreads in SPREADS]
    shared = [(s.low.amin(), s.high.amax()) for s in seen]
    return seen, tensors_of(seen, shared, [4, 8], generator=generator)


def test_a_learned_schedule_never_loses_to_the_shared_grid(
    generator: torch.Generator,
) -> None:
    _, tensors = example(generator)
    ends = learn_functions(tensors, STEPS, num_timesteps=1000, generator=generator)
    assert bool(torch.isfinite(ends).all())
    assert bool((ends[1] > ends[0]).all())
    low, high = ends / tensors.width[:, None]
    errors = range_errors(tensors.values, low, high, tensors.top).sum(1)
    low, high = (e[:, None].expand_as(low) for e in (tensors.low, tensors.high))
    at_shared = range_errors(tensors.values, low, high, tensors.top).sum(1)
    # The ends were multiplied by the width and divided again: not the same bits.
    assert bool((errors <= at_shared * (1 + 1e-4)).all())
    assert float(errors[0]) < 0.5 * float(at_shared[0])


def test_a_learned_schedule_follows_the_timestep(generator: torch.Generator) -> None:
    _, tensors = example(generator)
    ends = learn_functions(tensors, STEPS, num_timesteps=1000, generator=generator)
    width = (ends[1] - ends[0])[0]
    assert bool((width.diff() > 0).all())


def test_the_networks_start_at_the_shared_grid(generator: torch.Generator) -> None:
    factors = RangeFunctions(3, generator=generator)(torch.linspace(0, 1, 7))
    assert factors.shape == (2, 3, 7)
    torch.testing.assert_close(factors, torch.ones_like(factors))


def test_the_error_is_that_of_the_grid(generator: torch.Generator) -> None:
    _, tensors = example(generator)
    low, high = (e[:, None].expand(2, 5) for e in (tensors.low, tensors.high))
    found = range_errors(tensors.values, low, high, tensors.top)
    for q, bits in enumerate((4, 8)):
        params = affine_params(tensors.low[q], tensors.high[q], num_bits=bits)
        x = tensors.values[q]
        expected = (fake_quantize(x, params, num_bits=bits) - x).square().mean(1)
        torch.testing.assert_close(found[q], expected, rtol=1e-3, atol=1e-9)


def test_a_clipped_value_pulls_at_its_end() -> None:
    values = torch.tensor([[[3.0, 0.5, 0.0]]])
    low = torch.tensor([[-1.0]], requires_grad=True)
    high = torch.tensor([[1.0]], requires_grad=True)
    range_errors(values, low, high, torch.tensor([255.0])).sum().backward()
    assert high.grad is not None
    assert float(high.grad) < 0


def test_a_tensor_that_is_always_zero_keeps_a_finite_grid(
    generator: torch.Generator,
) -> None:
    zero = torch.zeros(5)
    seen = [Seen(zero, zero, [[torch.zeros(10)] for _ in range(5)])]
    tensors = tensors_of(seen, [(zero[0], zero[0])], [4], generator=generator)
    ends = learn_functions(tensors, STEPS, num_timesteps=1000, generator=generator)
    grid = affine_params(ends[0], ends[1], num_bits=4)
    assert bool(torch.isfinite(grid.scale).all())
    assert bool((grid.scale > 0).all())


def test_the_mixture_s_error_is_a_quadratic_form(generator: torch.Generator) -> None:
    seen, tensors = example(generator)
    ranges = spread_ranges(tensors, seen, num_groups=3)
    form = mixture_form(tensors, ranges)[0, 2]
    p = torch.rand(3, generator=generator).softmax(0)
    low, high = ranges[:, 0] / tensors.width[0]
    x = tensors.values[0, 2]
    mixed = sum(
        weight * fake_quantize(x, affine_params(a, b, num_bits=4), num_bits=4)
        for weight, a, b in zip(p, low, high, strict=True)
    )
    assert isinstance(mixed, torch.Tensor)
    error = (mixed - x).square().mean()
    one = p @ form @ p
    single = fake_quantize(x, affine_params(low[0], high[0], num_bits=4), num_bits=4)
    # The form is normalised: compare ratios of errors.
    ratio = error / (single - x).square().mean()
    torch.testing.assert_close(one / form[0, 0], ratio, rtol=1e-3, atol=1e-6)


def test_alike_steps_share_a_group_and_parts_share_the_assignment(
    generator: torch.Generator,
) -> None:
    seen = [seen_of((1.0, 1.0, 1.0, 20.0, 20.0), generator) for _ in range(2)]
    shared = [(s.low.amin(), s.high.amax()) for s in seen]
    tensors = tensors_of(seen, shared, [4, 4], generator=generator)
    ranges = spread_ranges(tensors, seen, num_groups=2)
    found = learn_groups(tensors, ranges, torch.tensor([0, 0]), generator=generator)
    assert found.shape == (1, 5)
    groups = found[0].tolist()
    assert len(set(groups[:3])) == len(set(groups[3:])) == 1
    assert groups[0] != groups[3]


def test_the_same_seed_gives_the_same_schedules(generator: torch.Generator) -> None:
    def learn() -> torch.Tensor:
        seeded = torch.Generator().manual_seed(1)
        _, tensors = example(seeded)
        return learn_functions(tensors, STEPS, num_timesteps=1000, generator=seeded)

    assert torch.equal(learn(), learn())

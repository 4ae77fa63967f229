import torch
from torch import Tensor

from tcaq_core.difference import (
    DifferenceQuantizer,
    Lanes,
    forget_trajectory,
    fresh_trajectory,
    on_own_range,
)
from tcaq_core.timesteps import SamplerSteps, TimestepCursor

T = (800, 600, 400, 200, 0)


def quantizer(
    num_bits: int = 4, *, is_static: bool = False, parts: tuple[int, ...] = ()
) -> DifferenceQuantizer:
    cursor = TimestepCursor()
    cursor.steps = SamplerSteps(T)
    return DifferenceQuantizer(
        num_bits, cursor=cursor, parts=parts, is_static=is_static
    )


def run(q: DifferenceQuantizer, x: Tensor, t: int | list[int]) -> Tensor:
    with q.cursor.at(torch.tensor(t).reshape(-1).expand(len(x))):
        out: Tensor = q(x)
    return out


def walk(generator: torch.Generator, steps: int = 5) -> list[Tensor]:
    """Return an activation that changes a little from step to step."""
    x = [torch.randn(2, 3, 4, 4, generator=generator)]
    for _ in range(steps - 1):
        x.append(x[-1] + 0.05 * torch.randn(2, 3, 4, 4, generator=generator))
    return x


def test_errors_do_not_accumulate_along_a_trajectory(
    generator: torch.Generator,
) -> None:
    q = quantizer()
    plain = quantizer()
    errors = []
    for t, x in zip(T, walk(generator), strict=True):
        before = q.held.a_hat if q.held else None
        a_hat = run(q, x, t)
        if before is not None:
            span = (x - before).flatten(1)
            step = (span.amax(1).clamp(min=0) - span.amin(1).clamp(max=0)) / 15
            # Rounded zero points may push the grid's ends in by half a step.
            assert bool(((a_hat - x).abs().flatten(1).amax(1) <= step * 1.01).all())
        errors.append(float((a_hat - x).square().mean()))
        forget_trajectory(plain)
    coarse = float((on_own_range(x, num_bits=4) - x).square().mean())
    assert max(errors[1:]) < 0.05 * coarse


def test_the_first_step_has_eight_bits_and_each_samples_own_range(
    generator: torch.Generator,
) -> None:
    x = torch.randn(2, 3, 4, 4, generator=generator)
    q = quantizer()
    both = run(q, x, 800)
    assert torch.equal(both, on_own_range(x, num_bits=8))
    forget_trajectory(q)
    assert torch.equal(run(q, x[:1], 800), both[:1])


def test_what_a_batch_looks_like_does_not_depend_on_its_neighbours(
    generator: torch.Generator,
) -> None:
    together, alone = quantizer(), quantizer()
    for t, x in zip(T, walk(generator), strict=True):
        assert torch.equal(run(together, x, t)[:1], run(alone, x[:1], t))


def test_state_never_leaks_into_something_else(generator: torch.Generator) -> None:
    first, second = walk(generator)[:2]
    start = on_own_range(second, num_bits=8)
    for then, x in (
        (800, second),  # the next batch starts over
        (600, second),  # the same step once more
        ([400, 200], second),  # not one trajectory step
        (400, second[:1]),  # another batch
    ):
        q = quantizer()
        run(q, first, 600)
        assert torch.equal(run(q, x, then), start[: len(x)])
    q = quantizer()
    run(q, first, 600)
    with fresh_trajectory(q):
        assert torch.equal(run(q, second, 400), start)
    assert q.held is None
    q = quantizer()
    run(q, first, [600, 400])
    assert torch.equal(run(q, second, 200), start)


def test_full_precision_neither_quantizes_nor_remembers(
    generator: torch.Generator,
) -> None:
    first, second, third = walk(generator, 3)
    q, undisturbed = quantizer(), quantizer()
    for each in (q, undisturbed):
        run(each, first, 600)
    q.is_active = False
    assert torch.equal(run(q, third, 600), third)
    q.is_active = True
    assert torch.equal(run(q, second, 400), run(undisturbed, second, 400))


def test_static_differences_lie_on_the_steps_own_grid(
    generator: torch.Generator,
) -> None:
    q = quantizer(is_static=True)
    assert q.grid is not None
    high = torch.tensor([[1.0], [0.1], [0.2], [0.3], [0.4]])
    q.grid.fit(-high, high)
    first, second = walk(generator)[:2]
    before = run(q, first, 800)
    a_hat = run(q, second, 600)
    codes = (a_hat - before) / q.grid.scale[1]
    assert torch.allclose(codes, codes.round(), atol=1e-4)
    inside = ((second - before).abs() < 0.09).float()
    assert bool(((a_hat - second).abs() * inside <= q.grid.scale[1] / 2 + 1e-6).all())


def test_parts_of_the_channels_have_ranges_of_their_own(
    generator: torch.Generator,
) -> None:
    x = torch.randn(2, 3, 4, 4, generator=generator)
    x[:, 2] *= 100
    split = run(quantizer(parts=(2, 1)), x, 800)
    whole = run(quantizer(), x, 800)
    assert torch.equal(split[:, :2], on_own_range(x[:, :2], num_bits=8))
    assert not torch.equal(split[:, :2], whole[:, :2])


def test_lanes_keep_interleaved_batches_apart(generator: torch.Generator) -> None:
    walks = [walk(generator), walk(generator)]
    alone = []
    for x_of in walks:
        q = quantizer()
        alone.append([run(q, x, t) for t, x in zip(T, x_of, strict=True)])
    q = quantizer()
    lanes = Lanes(q)
    for step, t in enumerate(T):
        for index in (0, 1):
            with lanes.lane(index):
                out = run(q, walks[index][step], t)
            assert torch.equal(out, alone[index][step])
    assert q.held is None

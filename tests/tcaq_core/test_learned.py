import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tcaq_core.functional import affine_params, dequantize, fake_quantize
from tcaq_core.learned import AdaRound, RangeLearning, nearest_codes
from tcaq_core.quantizers import UniformQuantizer
from tcaq_core.timesteps import SamplerSteps, TimestepCursor


def test_adaround_starts_at_the_full_precision_weight() -> None:
    weight = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    params = affine_params(weight.amin() * 1.1, weight.amax() * 1.1, num_bits=4)
    rounding = AdaRound(weight, params, num_bits=4)
    assert torch.allclose(rounding.soft_weight(), weight, atol=1e-3)
    # Before any step its hard decision is the nearest code.
    assert torch.equal(rounding.codes(), nearest_codes(weight, params, num_bits=4))


def test_adaround_only_ever_rounds_down_or_up() -> None:
    weight = torch.randn(64, generator=torch.Generator().manual_seed(1))
    params = affine_params(weight.amin(), weight.amax(), num_bits=3)
    rounding = AdaRound(weight, params, num_bits=3)
    rounding.reopen(torch.randn(64, generator=torch.Generator().manual_seed(2)) * 9)
    step = (dequantize(rounding.codes(), params) - weight).abs() / params.scale
    assert float(step.max()) < 1 + 1e-4


def test_reopening_leaves_every_decision_revisable() -> None:
    weight = torch.tensor([0.1, 0.2])
    params = affine_params(torch.tensor(0.0), torch.tensor(1.0), num_bits=4)
    rounding = AdaRound(weight, params, num_bits=4)
    rounding.reopen(torch.tensor([9.0, -9.0]))
    rounding.soft_rounding().sum().backward()
    assert rounding.v.grad is not None
    assert bool((rounding.v.grad != 0).all())
    assert (rounding.v >= 0).tolist() == [True, False]


def learning(
    rows: int, generator: torch.Generator, *, drop: float = 0.0, parts: int = 1
) -> RangeLearning:
    return RangeLearning(torch.ones(rows, parts), drop=drop, generator=generator)


def test_learned_scales_start_where_the_grid_is(generator: torch.Generator) -> None:
    start = torch.tensor([0.5, 2.0])
    ranges = learning(2, generator, parts=3)
    assert torch.equal(ranges.scale(start, 1), start)
    with torch.no_grad():
        ranges.log_factor[:, 1] = torch.tensor([2.0, 0.5]).log()
    assert torch.allclose(ranges.scale(start, 1), torch.tensor([1.0, 1.0]))
    assert torch.equal(ranges.scale(start, 0), start)


def test_only_the_rows_and_parts_that_ran_get_a_gradient(
    generator: torch.Generator,
) -> None:
    cursor = TimestepCursor()
    cursor.steps = SamplerSteps((900, 500, 100))
    quantizer = UniformQuantizer(4, cursor=cursor)
    quantizer.parts = (2, 1)
    quantizer.fit(torch.full((3, 2), -1.0), torch.full((3, 2), 2.0))
    quantizer.learning = learning(3, generator, parts=2)
    x = torch.randn(2, 3, 4, generator=generator)
    x[:, 2] = 0.0  # exact on any grid: nothing to learn
    with cursor.at(torch.tensor([900, 100])):
        quantizer(x).square().sum().backward()
    grad = quantizer.learning.log_factor.grad
    assert grad is not None
    assert (grad != 0).tolist() == [[True, False], [False, False], [True, False]]


@pytest.mark.parametrize("t", [[900, 900], [900, 100]])
def test_a_grid_that_learns_answers_as_before_until_it_learned(
    generator: torch.Generator, t: list[int]
) -> None:
    cursor = TimestepCursor()
    cursor.steps = SamplerSteps((900, 100))
    quantizer = UniformQuantizer(4, cursor=cursor)
    quantizer.fit(torch.tensor([[-1.0], [-2.0]]), torch.tensor([[2.0], [1.0]]))
    x = torch.randn(2, 3, 4, generator=generator)
    with cursor.at(torch.tensor(t)):
        fixed = quantizer(x)
        quantizer.learning = learning(2, generator)
        assert torch.equal(quantizer(x), fixed)


@given(st.floats(0.05, 0.95), st.integers(0, 1000))
def test_a_share_of_the_elements_is_left_as_it_was(drop: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    ranges = learning(1, generator, drop=drop)
    x, x_hat = torch.zeros(100, 100), torch.ones(100, 100)
    out = ranges.drop(x, x_hat)
    # One byte an element rounds the share up by at most 1/256; five deviations.
    assert float((out == x).float().mean()) == pytest.approx(drop, abs=0.004 + 0.025)


def test_nothing_is_drawn_when_nothing_is_dropped() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    x_hat = torch.ones(3)
    assert learning(1, generator).drop(torch.zeros(3), x_hat) is x_hat
    assert torch.equal(generator.get_state(), before)


def test_the_same_generator_drops_the_same_elements() -> None:
    x, x_hat = torch.zeros(64), torch.ones(64)
    first, second = (
        learning(1, torch.Generator().manual_seed(3), drop=0.5).drop(x, x_hat)
        for _ in range(2)
    )
    assert torch.equal(first, second)


def test_dropped_elements_pass_the_gradient_on(generator: torch.Generator) -> None:
    x = torch.linspace(-3, 3, 1000)[None].requires_grad_()
    params = affine_params(torch.tensor(-1.0), torch.tensor(1.0), num_bits=4)
    x_hat = fake_quantize(x.detach(), params, num_bits=4)
    out = learning(1, generator, drop=0.5).drop(x, x_hat)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad == 1, out.detach() == x.detach())

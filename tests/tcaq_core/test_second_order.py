import pytest
import torch
from torch import Tensor

from tcaq_core.functional import AffineParams, dequantize, quantize, weight_params
from tcaq_core.second_order import damped, moments, refit, round_columns


def problem(generator: torch.Generator) -> tuple[Tensor, Tensor, AffineParams]:
    """A weight, correlated inputs and a 3-bit grid for each output."""
    x = torch.randn(512, 6, generator=generator) @ torch.randn(
        6, 24, generator=generator
    )
    x = x + 0.1 * torch.randn(512, 24, generator=generator)
    weight = torch.randn(8, 24, generator=generator)
    params = weight_params(weight.amin(1)[:, None], weight.amax(1)[:, None], num_bits=3)
    return weight, x, params


def error(weight: Tensor, x: Tensor, codes: Tensor, params: AffineParams) -> float:
    return float((x @ (dequantize(codes, params) - weight).T).square().mean())


def test_it_beats_rounding_to_nearest_where_inputs_are_correlated(
    generator: torch.Generator,
) -> None:
    weight, x, params = problem(generator)
    found = moments(x, x @ weight.T)
    rounded = round_columns(weight, params, found.hessian, damping=0.01, num_bits=3)
    nearest = quantize(weight, params, num_bits=3)
    assert int(rounded.codes.max()) <= 7
    assert error(weight, x, rounded.codes, params) < 0.5 * error(
        weight, x, nearest, params
    )


def test_uncorrelated_inputs_are_rounded_to_nearest(generator: torch.Generator) -> None:
    weight, _, params = problem(generator)
    rounded = round_columns(weight, params, torch.eye(24), damping=0.01, num_bits=3)
    nearest = quantize(weight, params, num_bits=3)
    assert torch.equal(rounded.codes, nearest.to(torch.uint8))
    assert torch.allclose(rounded.target, weight)


def test_more_columns_than_a_batch_carry_errors_over_as_one_by_one(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, x, params = problem(generator)
    hessian = moments(x, x @ weight.T).hessian
    whole = round_columns(weight, params, hessian, damping=0.01, num_bits=3)
    monkeypatch.setattr("tcaq_core.second_order.COLUMNS_PER_BATCH", 5)
    pieces = round_columns(weight, params, hessian, damping=0.01, num_bits=3)
    assert torch.equal(whole.codes, pieces.codes)


def test_a_refit_answers_better_on_disturbed_inputs(generator: torch.Generator) -> None:
    weight, x, _ = problem(generator)
    y = x @ weight.T
    x_hat = x + 0.3 * torch.randn(x.shape, generator=generator)
    fitted = refit(weight, moments(x_hat, y), damping=0.01)
    assert float((x_hat @ fitted.T - y).square().mean()) < 0.9 * float(
        (x_hat @ weight.T - y).square().mean()
    )


def test_a_refit_on_exact_inputs_leaves_the_weight(generator: torch.Generator) -> None:
    weight, x, _ = problem(generator)
    fitted = refit(weight, moments(x, x @ weight.T), damping=0.01)
    assert torch.allclose(fitted, weight, atol=1e-3)


def test_moments_are_centred() -> None:
    x = torch.tensor([[1.0], [3.0]])
    found = moments(x, 2 * x + 5)
    assert found.hessian.tolist() == [[1.0]]
    assert found.cross.tolist() == [[2.0]]
    assert (found.input_mean.tolist(), found.output_mean.tolist()) == ([2.0], [9.0])


def test_a_dead_input_does_not_break_the_factorisation() -> None:
    assert bool((damped(torch.zeros(3, 3), 0.01).diagonal() > 0).all())

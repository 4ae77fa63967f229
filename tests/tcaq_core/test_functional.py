import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tcaq_core.functional import (
    AffineParams,
    affine_params,
    balance,
    dequantize,
    fake_quantize,
    fake_quantize_learnable,
    fake_quantize_log,
    fake_quantize_samples,
    fake_quantize_tensor,
    inverse_rectified_sigmoid,
    power_law_log_likelihood_ratio,
    quantize,
    rectified_sigmoid,
    rounding_regularizer,
    straight_through,
    weight_params,
)

bits = st.integers(2, 8)
seeds = st.integers(0, 10_000)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def grid_of(x: Tensor, num_bits: int) -> AffineParams:
    return affine_params(x.amin(), x.amax(), num_bits=num_bits)


@given(seeds, bits)
def test_a_value_inside_the_range_moves_by_at_most_half_a_step(
    seed: int, num_bits: int
) -> None:
    x = draw(seed, 64)
    params = grid_of(x, num_bits)
    error = (fake_quantize(x, params, num_bits=num_bits) - x).abs()
    # The zero point is rounded too, which can cut half a step off one end.
    assert float(error.max()) <= float(params.scale) * 1.001


@given(seeds, bits)
def test_quantizing_twice_changes_nothing(seed: int, num_bits: int) -> None:
    x = draw(seed, 64)
    params = grid_of(x, num_bits)
    once = fake_quantize(x, params, num_bits=num_bits)
    assert torch.equal(fake_quantize(once, params, num_bits=num_bits), once)


@given(seeds, bits)
def test_zero_is_exact(seed: int, num_bits: int) -> None:
    params = grid_of(draw(seed, 16) + 3, num_bits)
    zero = torch.zeros(())
    assert float(fake_quantize(zero, params, num_bits=num_bits)) == 0.0


@given(seeds, bits)
def test_the_fused_kernel_agrees_with_the_definition_to_the_last_bit(
    seed: int, num_bits: int
) -> None:
    x = draw(seed, 4096) * 3
    params = grid_of(x * 0.7, num_bits)
    fused = fake_quantize_tensor(x, params.scale, params.zero_point, num_bits=num_bits)
    assert torch.equal(fused, fake_quantize(x, params, num_bits=num_bits))


@given(seeds, bits)
def test_grids_by_sample_agree_with_the_definition_to_the_last_bit(
    seed: int, num_bits: int
) -> None:
    x = draw(seed, 5, 3, 64) * 3
    params = affine_params(x.amin((1, 2)) * 0.7, x.amax((1, 2)), num_bits=num_bits)
    fused = fake_quantize_samples(x, params.scale, params.zero_point, num_bits=num_bits)
    broadcast = AffineParams(
        params.scale[:, None, None], params.zero_point[:, None, None]
    )
    assert torch.equal(fused, fake_quantize(x, broadcast, num_bits=num_bits))


@given(seeds, bits)
def test_a_learnable_grid_has_the_same_values(seed: int, num_bits: int) -> None:
    x = draw(seed, 4, 64) * 3
    one = grid_of(x, num_bits)
    learnable = fake_quantize_learnable(x, one.scale, one.zero_point, num_bits=num_bits)
    assert torch.equal(learnable, fake_quantize(x, one, num_bits=num_bits))
    by_sample = affine_params(x.amin(1), x.amax(1), num_bits=num_bits)
    assert torch.equal(
        fake_quantize_learnable(
            x, by_sample.scale, by_sample.zero_point, num_bits=num_bits
        ),
        fake_quantize_samples(
            x, by_sample.scale, by_sample.zero_point, num_bits=num_bits
        ),
    )


def test_the_gradient_of_a_scale_is_lsq_s() -> None:
    # 1902.08153, equation 3: round(v/s) - v/s inside the range, its ends outside.
    x = torch.tensor([[-9.0, 0.24, 0.7, 9.0]])
    scale = torch.tensor(0.1, requires_grad=True)
    zero = torch.tensor(4.0)
    out = fake_quantize_learnable(x, scale, zero, num_bits=4)
    out.sum().backward()
    assert scale.grad is not None
    assert float(scale.grad) == pytest.approx(-4 + (2 - 2.4) + (7 - 7.0) + 11, abs=1e-4)


@given(seeds, bits)
def test_weight_codes_minus_their_zero_point_fit_in_int8(
    seed: int, num_bits: int
) -> None:
    weight = draw(seed, 8, 32) + draw(seed + 1, 8, 1)
    params = weight_params(weight.amin(1), weight.amax(1), num_bits=num_bits)
    column = AffineParams(params.scale[:, None], params.zero_point[:, None])
    centred = quantize(weight, column, num_bits=num_bits) - column.zero_point
    assert float(centred.min()) >= -128
    assert float(centred.max()) <= 127


def test_the_gradient_passes_straight_through_inside_the_range_only() -> None:
    x = torch.tensor([-9.0, 0.2, 0.7, 9.0], requires_grad=True)
    out = fake_quantize_tensor(x, torch.tensor(0.1), torch.tensor(0.0), num_bits=4)
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 0.0]


def test_straight_through_keeps_the_value_and_the_gradient() -> None:
    x = torch.tensor([0.3, 0.6], requires_grad=True)
    x_hat = torch.tensor([0.25, 0.5])
    out = straight_through(x, x_hat)
    (out * 3).sum().backward()
    assert torch.equal(out.detach(), x_hat)
    assert x.grad is not None
    assert x.grad.tolist() == [3.0, 3.0]


def test_log2_is_exact_on_powers_of_two_and_flushes_the_rest_to_zero() -> None:
    a = torch.tensor([1.0, 0.5, 2.0**-15, 2.0**-16, 0.0])
    out = fake_quantize_log(a, torch.tensor(1.0), log_step=1.0, num_bits=4)
    assert out.tolist() == [1.0, 0.5, 2.0**-15, 0.0, 0.0]


def test_root_two_has_a_value_between_every_two_powers_of_two() -> None:
    a = torch.tensor([1.0, 0.8, 0.65, 2.0**-7.5, 2.0**-8])
    out = fake_quantize_log(a, torch.tensor(1.0), log_step=0.5, num_bits=4)
    expected = torch.tensor([1.0, 2.0**-0.5, 2.0**-0.5, 2.0**-7.5, 0.0])
    assert torch.allclose(out, expected)


@given(st.integers(1, 128), bits)
def test_every_power_of_adalog_s_base_is_a_value_of_its_grid(
    k: int, num_bits: int
) -> None:
    peak = torch.tensor(0.7)
    codes = torch.arange(2**num_bits).double()
    values = (0.7 * torch.exp2(-codes * k / 37)).float()
    # Below the smallest normal number a float has too few digits for any base.
    values = values[values > torch.finfo(torch.float32).tiny]
    out = fake_quantize_log(values, peak, log_step=k / 37, num_bits=num_bits)
    assert torch.allclose(out, values, rtol=1e-4, atol=0.0)


@given(seeds, st.sampled_from([1.0, 0.5, 4 / 37, 15 / 37]), bits)
def test_a_log_grid_is_off_by_at_most_half_a_step_of_its_exponent(
    seed: int, log_step: float, num_bits: int
) -> None:
    a = torch.rand(64, generator=torch.Generator().manual_seed(seed))
    out = fake_quantize_log(a, torch.tensor(1.0), log_step=log_step, num_bits=num_bits)
    kept = out > 0
    off = (torch.log2(out[kept]) - torch.log2(a[kept])).abs()
    assert bool((off <= log_step / 2 + 1e-4).all())
    flushed = -torch.log2(a[~kept])
    assert bool((flushed >= (2**num_bits - 0.5) * log_step - 1e-4).all())


@given(seeds)
def test_balance_is_one_for_equal_channels(seed: int) -> None:
    level = draw(seed, 5, 1).abs() + 0.1
    r = balance(level.expand(5, 7).contiguous(), target="min")
    assert torch.allclose(r, torch.ones(7))


def test_balance_weights_groups_by_their_range() -> None:
    # One wide group (ratio 4) and one narrow group (ratio 1) of the second channel.
    channel_range = torch.tensor([[1.0, 4.0], [1.0, 1.0]])
    r = balance(channel_range, target="min")
    assert r.tolist() == [1.0, pytest.approx((4 * 4 + 1 * 1) / 5)]


@given(seeds)
def test_balance_evens_out_static_ranges(seed: int) -> None:
    ranges = draw(seed, 1, 9).abs() + 0.05
    r = balance(ranges, target="min")
    assert torch.allclose(ranges[0] / r, ranges.min().expand(9), rtol=1e-5)


@given(st.floats(0.01, 0.99))
def test_the_rectified_sigmoid_inverts(h: float) -> None:
    start = torch.tensor(h)
    again = rectified_sigmoid(inverse_rectified_sigmoid(start))
    assert float(again) == pytest.approx(h, abs=1e-5)


def test_the_regularizer_vanishes_exactly_when_every_rounding_is_decided() -> None:
    assert float(rounding_regularizer(torch.tensor([0.0, 1.0]), beta=4.0)) == 0.0
    assert float(rounding_regularizer(torch.tensor([0.5]), beta=4.0)) == 1.0


def test_the_likelihood_ratio_tells_a_power_law_from_an_exponential() -> None:
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    power_law = 1e-4 * uniform.clamp(min=1e-6).pow(-1 / 1.5)
    exponential = -torch.log(uniform.clamp(min=1e-6)) + 0.01
    assert power_law_log_likelihood_ratio(power_law) > 0
    assert power_law_log_likelihood_ratio(exponential) < 0
    assert power_law_log_likelihood_ratio(torch.ones(5)) == 0.0


def test_dequantize_inverts_codes() -> None:
    params = AffineParams(torch.tensor(0.5), torch.tensor(2.0))
    assert dequantize(torch.tensor([0.0, 2.0, 3.0]), params).tolist() == [-1, 0, 0.5]

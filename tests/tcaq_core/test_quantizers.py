import pytest
import torch

from tcaq_core.functional import affine_params, dequantize
from tcaq_core.quantizers import (
    AdaRound,
    Grid,
    NotCalibrated,
    SoftmaxQuantizer,
    UniformQuantizer,
    grid_scale,
    nearest_codes,
    softmax_grid,
)
from tcaq_core.timesteps import TimestepCursor


def softmax_quantizer(cursor: TimestepCursor) -> SoftmaxQuantizer:
    return SoftmaxQuantizer(4, cursor=cursor, num_timesteps=1000)


def test_an_inactive_quantizer_hands_its_input_on() -> None:
    x = torch.tensor([0.123])
    assert UniformQuantizer(4)(x) is x


def test_an_active_quantizer_refuses_before_it_is_fitted() -> None:
    quantizer = UniformQuantizer(4)
    quantizer.is_active = True
    with pytest.raises(NotCalibrated):
        quantizer(torch.zeros(1))
    softmax = softmax_quantizer(TimestepCursor())
    softmax.is_active = True
    with pytest.raises(NotCalibrated):
        softmax(torch.zeros(1, 1))


def test_fit_sets_the_grid_and_activates_it() -> None:
    quantizer = UniformQuantizer(2)
    quantizer.fit(torch.tensor(0.0), torch.tensor(3.0))
    assert quantizer(torch.tensor([0.4, 1.6, 9.0])).tolist() == [0.0, 2.0, 3.0]


def test_the_softmax_grid_follows_the_timestep_of_each_sample() -> None:
    cursor = TimestepCursor()
    quantizer = softmax_quantizer(cursor)
    quantizer.fit(torch.tensor([1.0, 1.0]), torch.tensor([False, True]))
    a = torch.full((2, 3), 0.3)
    with cursor.at(torch.tensor([10, 990])):
        mixed = quantizer(a)
    with cursor.at(torch.tensor([10])):
        early = quantizer(a[:1])
    with cursor.at(torch.tensor([990])):
        late = quantizer(a[1:])
    assert torch.equal(mixed, torch.cat([early, late]))
    assert float(early[0, 0]) == pytest.approx(round(0.3 * 15) / 15)
    assert float(late[0, 0]) == 0.25


@pytest.mark.parametrize("grid", ["uniform", "log2"])
def test_a_softmax_grid_holds_its_peak(grid: Grid) -> None:
    peak = torch.tensor(0.25)
    scale = grid_scale(peak, grid, num_bits=4)
    out = softmax_grid(peak, scale, grid, num_bits=4)
    assert float(out) == pytest.approx(0.25)


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

import pytest
import torch

from tcaq_core.functional import AffineParams, affine_params, fake_quantize
from tcaq_core.quantizers import (
    NotCalibrated,
    SoftmaxQuantizer,
    UniformQuantizer,
    grid_scale,
    softmax_grid,
)
from tcaq_core.timesteps import SamplerSteps, TimestepCursor

STEPS = SamplerSteps((900, 500, 100))


def softmax_quantizer(cursor: TimestepCursor) -> SoftmaxQuantizer:
    return SoftmaxQuantizer(4, cursor=cursor, num_timesteps=1000)


def table(quantizer: UniformQuantizer, rows: int, *, seed: int = 0) -> None:
    """Fit every row and part to a range of its own."""
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, max(1, len(quantizer.parts)))
    low, high = torch.rand(2, *shape, generator=generator) + 0.2
    quantizer.fit(-low, high * 3)


@pytest.fixture
def cursor() -> TimestepCursor:
    cursor = TimestepCursor()
    cursor.steps = STEPS
    return cursor


def test_an_inactive_quantizer_hands_its_input_on() -> None:
    x = torch.tensor([0.123])
    assert UniformQuantizer(4, cursor=TimestepCursor())(x) is x


def test_an_active_quantizer_refuses_before_it_is_fitted() -> None:
    quantizer = UniformQuantizer(4, cursor=TimestepCursor())
    quantizer.is_active = True
    with pytest.raises(NotCalibrated):
        quantizer(torch.zeros(1))
    softmax = softmax_quantizer(TimestepCursor())
    softmax.is_active = True
    with pytest.raises(NotCalibrated):
        softmax(torch.zeros(1, 1))


def test_fit_sets_the_grid_and_activates_it() -> None:
    quantizer = UniformQuantizer(2, cursor=TimestepCursor())
    quantizer.fit(torch.tensor([[0.0]]), torch.tensor([[3.0]]))
    assert quantizer(torch.tensor([0.4, 1.6, 9.0])).tolist() == [0.0, 2.0, 3.0]


@pytest.mark.parametrize("parts", [(), (2, 3)])
@pytest.mark.parametrize("num_bits", [4, 8])
def test_a_mixed_batch_equals_each_of_its_samples_alone_bit_by_bit(
    cursor: TimestepCursor,
    generator: torch.Generator,
    parts: tuple[int, ...],
    num_bits: int,
) -> None:
    quantizer = UniformQuantizer(num_bits, cursor=cursor)
    quantizer.parts = parts
    table(quantizer, rows=3)
    x = torch.randn(6, 5, 4, 4, generator=generator)
    t = torch.tensor([900, 100, 500, 480, 0, 999])
    with cursor.at(t):
        mixed = quantizer(x)
    for i in range(len(t)):
        with cursor.at(t[i : i + 1]):
            assert torch.equal(mixed[i : i + 1], quantizer(x[i : i + 1]))


def test_each_step_reads_its_own_row(
    cursor: TimestepCursor, generator: torch.Generator
) -> None:
    quantizer = UniformQuantizer(4, cursor=cursor)
    table(quantizer, rows=3)
    x = torch.randn(2, 7, generator=generator)
    for row, t in enumerate(STEPS.timesteps):
        grid = AffineParams(quantizer.scale[row, 0], quantizer.zero_point[row, 0])
        with cursor.at(torch.tensor([t, t])):
            assert torch.equal(quantizer(x), fake_quantize(x, grid, num_bits=4))


def test_steps_may_share_rows(
    cursor: TimestepCursor, generator: torch.Generator
) -> None:
    low, high = -torch.ones(2, 1), torch.tensor([[1.0], [8.0]])
    shared = UniformQuantizer(4, cursor=cursor)
    shared.fit(low, high, row_of_step=torch.tensor([1, 0, 1]))
    spelled_out = UniformQuantizer(4, cursor=cursor)
    spelled_out.fit(low[[1, 0, 1]], high[[1, 0, 1]])
    x = torch.randn(4, 7, generator=generator) * 5
    with cursor.at(torch.tensor([900, 500, 100, 470])):
        assert shared.rows().tolist() == [1, 0, 1, 0]
        assert torch.equal(shared(x), spelled_out(x))


def test_one_row_needs_no_timestep(generator: torch.Generator) -> None:
    quantizer = UniformQuantizer(4, cursor=TimestepCursor())
    quantizer.fit(-torch.ones(1, 1), torch.ones(1, 1))
    x = torch.randn(2, 3, generator=generator)
    assert not torch.equal(quantizer(x), x)


def test_each_part_of_the_channels_has_its_own_grid(
    generator: torch.Generator,
) -> None:
    quantizer = UniformQuantizer(4, cursor=TimestepCursor())
    quantizer.parts = (2, 3)
    low, high = torch.tensor([[-1.0, -50.0]]), torch.tensor([[1.0, 50.0]])
    quantizer.fit(low, high)
    x = torch.randn(2, 5, 4, 4, generator=generator)
    x[:, 2:] *= 30
    first, second = (
        fake_quantize(
            piece, affine_params(low[0, p], high[0, p], num_bits=4), num_bits=4
        )
        for p, piece in enumerate((x[:, :2], x[:, 2:]))
    )
    assert torch.equal(quantizer(x), torch.cat([first, second], dim=1))


@pytest.mark.parametrize(("parts", "shape"), [((), (1, 2)), ((2, 3), (1, 1))])
def test_tables_of_another_shape_are_refused(
    parts: tuple[int, ...], shape: tuple[int, int]
) -> None:
    quantizer = UniformQuantizer(4, cursor=TimestepCursor())
    quantizer.parts = parts
    with pytest.raises(ValueError, match="parts"):
        quantizer.load(torch.ones(shape), torch.zeros(shape))


def test_the_softmax_grid_follows_the_timestep_of_each_sample() -> None:
    cursor = TimestepCursor()
    quantizer = softmax_quantizer(cursor)
    quantizer.fit(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1.0]))
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


@pytest.mark.parametrize("log_step", [0.0, 1.0, 0.5, 7 / 37])
def test_a_softmax_grid_holds_its_peak(log_step: float) -> None:
    peak = torch.tensor(0.25)
    scale = grid_scale(peak, torch.tensor(log_step), num_bits=4)
    out = softmax_grid(peak, scale, log_step=log_step, num_bits=4)
    assert float(out) == pytest.approx(0.25)

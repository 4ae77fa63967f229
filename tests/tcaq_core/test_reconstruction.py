from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import nn

from tcaq_core.block_learning import input_grids
from tcaq_core.calibration import BlockIO
from tcaq_core.errors import Interrupted, ReconstructionDiverged
from tcaq_core.layers import QuantLinear
from tcaq_core.learned import Rounding
from tcaq_core.objective import (
    Objective,
    Reconstruction,
    annealed_beta,
    squared_error,
)
from tcaq_core.quantizers import UniformQuantizer
from tcaq_core.recipe import PAR, LayerBits
from tcaq_core.reconstruction import BlockReport, block_loss, reconstruct_block
from tcaq_core.timesteps import SamplerSteps, TimestepCursor

CURSOR = TimestepCursor()


def problem(generator: torch.Generator) -> tuple[nn.Sequential, BlockIO]:
    linear = nn.Linear(16, 8)
    linear.weight.data = torch.randn(8, 16, generator=generator)
    # Correlated inputs: rounding to nearest is far from the best rounding.
    x = torch.randn(64, 4, generator=generator) @ torch.randn(
        4, 16, generator=generator
    )
    linear.bias.data = torch.randn(8, generator=generator)
    target = linear(x).detach()
    bits = LayerBits(weight_bits=3, activation_bits=16)
    layer = QuantLinear(linear, bits, cursor=CURSOR)
    weight = layer.full_weight()
    layer.fit_weight(weight.amin(1)[:, None], weight.amax(1)[:, None])
    return nn.Sequential(layer), BlockIO((x,), target, torch.zeros(64).long())


def learn(
    block: nn.Module,
    io: BlockIO,
    config: PAR,
    generator: torch.Generator,
    *,
    iterations: int,
    start: Rounding | None = None,
    name: str = "b",
    tick: Callable[[], None] = lambda: None,
) -> tuple[Rounding, BlockReport]:
    task = Reconstruction(
        name=name,
        block=block,
        io=io,
        config=config,
        cursor=CURSOR,
        generator=generator,
        tick=tick,
    )
    return reconstruct_block(task, iterations=iterations, start=start)


def test_reconstruction_beats_rounding_to_nearest(generator: torch.Generator) -> None:
    block, io = problem(generator)
    config = PAR(learning_rate=2e-2, batch_size=64)
    rounding, report = learn(block, io, config, generator, iterations=300)
    assert report.kept
    assert report.loss_after < 0.8 * report.loss_before
    assert report.loss_after == block_loss(block, io, cursor=CURSOR)
    assert set(rounding) == {"0"}


def test_a_worse_rounding_is_not_kept(generator: torch.Generator) -> None:
    block, io = problem(generator)
    before = block_loss(block, io, cursor=CURSOR)
    layer = block[0]
    assert isinstance(layer, QuantLinear)
    codes = layer.codes().clone()
    absurd = {"0": torch.full((8, 16), 2.0)}  # round everything up
    _, report = learn(
        block, io, PAR(learning_rate=1e-9), generator, iterations=1, start=absurd
    )
    assert not report.kept
    assert torch.equal(layer.codes(), codes)
    assert block_loss(block, io, cursor=CURSOR) == before


def test_divergence_names_the_block(generator: torch.Generator) -> None:
    block, io = problem(generator)
    io.target[:] = torch.inf
    with pytest.raises(ReconstructionDiverged, match="block up_blocks"):
        learn(block, io, PAR(), generator, iterations=1, name="up_blocks.0")


def test_the_regularizer_warms_up_and_anneals_linearly() -> None:
    config = PAR(warmup=0.2, beta=(20.0, 2.0))
    betas = [annealed_beta(step, 10, config) for step in range(10)]
    assert betas[:2] == [None, None]
    assert betas[2] == 20.0
    assert betas[6] == pytest.approx(11.0)
    assert betas == sorted(betas, key=lambda b: -(b or 99))


def test_input_grids_are_switched_off_and_restored() -> None:
    bits = LayerBits(weight_bits=4, activation_bits=4)
    layer = QuantLinear(nn.Linear(4, 4), bits, cursor=CURSOR)
    assert isinstance(layer.input_quantizer, UniformQuantizer)
    layer.input_quantizer.fit(torch.tensor([[-1.0]]), torch.tensor([[1.0]]))
    block = nn.Sequential(layer)
    states = []
    for was_active in (True, False):
        layer.input_quantizer.is_active = was_active
        for active in (True, False):
            with input_grids(block, active=active):
                states.append(layer.input_quantizer.is_active)
            assert layer.input_quantizer.is_active is was_active
    assert states == [True, False, False, False]


def test_a_tick_can_interrupt_a_long_reconstruction(generator: torch.Generator) -> None:
    block, io = problem(generator)

    def stop() -> None:
        raise Interrupted("stop", hint="asked")

    with pytest.raises(Interrupted):
        learn(block, io, PAR(), generator, iterations=1_000_000, tick=stop)


def with_inputs(
    generator: torch.Generator, *, rows: int = 1
) -> tuple[nn.Sequential, BlockIO]:
    """The same problem with 4-bit inputs, on a range twice too wide."""
    block, io = problem(generator)
    layer = QuantLinear(
        nn.Linear(16, 8), LayerBits(weight_bits=3, activation_bits=4), cursor=CURSOR
    )
    old = block[0]
    assert isinstance(old, QuantLinear)
    layer.weight, layer.bias = old.weight, old.bias
    layer.fit_weight(
        layer.full_weight().amin(1)[:, None], layer.full_weight().amax(1)[:, None]
    )
    assert isinstance(layer.input_quantizer, UniformQuantizer)
    (x,) = io.inputs
    wide = torch.full((rows, 1), 2.0)
    layer.input_quantizer.fit(x.amin() * wide, x.amax() * wide)
    return nn.Sequential(layer), io


@pytest.mark.parametrize("stage", ["joint", "after"])
def test_learned_scales_beat_fixed_ones(
    stage: Literal["joint", "after"], generator: torch.Generator
) -> None:
    losses = {}
    for learn_ranges in ("off", stage):
        block, io = with_inputs(torch.Generator().manual_seed(3))
        config = PAR(
            learning_rate=2e-2,
            batch_size=64,
            learn_ranges=learn_ranges,
            range_learning_rate=2e-2,
            range_iterations=200,
        )
        _, report = learn(block, io, config, generator, iterations=200)
        losses[learn_ranges] = report.loss_after
    assert losses[stage] < 0.8 * losses["off"]


def test_each_sampler_step_learns_a_scale_of_its_own(
    generator: torch.Generator,
) -> None:
    block, io = with_inputs(generator, rows=2)
    io = BlockIO(io.inputs, io.target, torch.tensor([900, 100] * 32))
    layer = block[0]
    assert isinstance(layer, QuantLinear)
    assert isinstance(layer.input_quantizer, UniformQuantizer)
    start = layer.input_quantizer.scale.clone()
    config = PAR(
        learning_rate=2e-2,
        batch_size=64,
        learn_ranges="joint",
        range_learning_rate=2e-2,
    )
    CURSOR.steps = SamplerSteps((900, 100))
    try:
        _, report = learn(block, io, config, generator, iterations=100)
    finally:
        CURSOR.steps = None
    assert report.kept
    moved = layer.input_quantizer.scale / start
    assert bool((moved != 1).all())
    assert float(moved[0]) != float(moved[1])
    assert layer.input_quantizer.learning is None


def test_a_learned_bias_leaves_full_precision_alone(
    generator: torch.Generator,
) -> None:
    block, io = problem(generator)
    layer = block[0]
    assert isinstance(layer, QuantLinear)
    assert layer.bias is not None
    before = layer.bias.clone()
    config = PAR(batch_size=64, learn_biases=True, range_learning_rate=1e-2)
    _, report = learn(block, io, config, generator, iterations=50)
    assert report.kept
    assert torch.equal(layer.bias, before)
    assert layer.bias_hat is not None
    assert not layer.bias_hat.requires_grad
    assert not torch.equal(layer.bias_hat, before)


def test_what_did_not_help_leaves_no_trace(generator: torch.Generator) -> None:
    block, io = with_inputs(generator)
    layer = block[0]
    assert isinstance(layer, QuantLinear)
    assert isinstance(layer.input_quantizer, UniformQuantizer)
    scale, codes = layer.input_quantizer.scale.clone(), layer.codes().clone()
    config = PAR(
        learn_ranges="joint", learn_biases=True, range_learning_rate=50.0, batch_size=64
    )
    _, report = learn(block, io, config, generator, iterations=1)
    assert not report.kept
    assert torch.equal(layer.input_quantizer.scale, scale)
    assert torch.equal(layer.codes(), codes)
    assert layer.bias_hat is None


def test_layer_errors_count_where_they_are_given(generator: torch.Generator) -> None:
    block, io = problem(generator)
    task = Reconstruction(
        name="b",
        block=block,
        io=BlockIO(io.inputs, io.target, io.t, {"0": io.target + 1}),
        config=PAR(layer_loss=0.5),
        cursor=CURSOR,
        generator=generator,
        tick=lambda: None,
    )
    at = torch.arange(64)
    objective = Objective(task, [], 10)
    with objective.watching():
        both = objective.loss(at, 0)
    error = squared_error(block(*io.inputs), io.target).mean()
    inside = squared_error(block(*io.inputs), io.target + 1).mean()
    assert float(both) == pytest.approx(float(error + 0.5 * inside))


def test_focal_weights_favour_steps_with_little_loss(
    generator: torch.Generator,
) -> None:
    block, io = problem(generator)
    target = io.target.clone()
    target[:32] += 10  # the first step's samples are far off
    io = BlockIO(io.inputs, target, torch.tensor([900] * 32 + [100] * 32))

    def loss_of(focal: float) -> float:
        task = Reconstruction(
            name="b",
            block=block,
            io=io,
            config=PAR(focal=focal),
            cursor=CURSOR,
            generator=generator,
            tick=lambda: None,
        )
        objective = Objective(task, [], 10)
        with objective.watching():
            objective.loss(torch.arange(64), 0)
            return float(objective.loss(torch.arange(64), 1))

    assert loss_of(20.0) < 0.02 * loss_of(0.0)

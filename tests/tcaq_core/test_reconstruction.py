import pytest
import torch
from torch import nn

from tcaq_core.calibration import BlockIO
from tcaq_core.errors import Interrupted, ReconstructionDiverged
from tcaq_core.layers import QuantLinear
from tcaq_core.recipe import PAR, LayerBits
from tcaq_core.reconstruction import (
    annealed_beta,
    block_loss,
    input_grids,
    reconstruct_block,
)
from tcaq_core.timesteps import TimestepCursor

CURSOR = TimestepCursor()


def problem(generator: torch.Generator) -> tuple[nn.Sequential, BlockIO]:
    linear = nn.Linear(16, 8)
    linear.weight.data = torch.randn(8, 16, generator=generator)
    # Correlated inputs: rounding to nearest is far from the best rounding.
    x = torch.randn(64, 4, generator=generator) @ torch.randn(
        4, 16, generator=generator
    )
    target = linear(x).detach()
    layer = QuantLinear(linear, LayerBits(weight_bits=3, activation_bits=16))
    weight = layer.full_weight()
    layer.fit_weight(weight.amin(1), weight.amax(1))
    return nn.Sequential(layer), BlockIO((x,), target, torch.zeros(64).long())


def test_reconstruction_beats_rounding_to_nearest(generator: torch.Generator) -> None:
    block, io = problem(generator)
    config = PAR(learning_rate=2e-2, batch_size=64)
    rounding, report = reconstruct_block(
        "b",
        block,
        io,
        config,
        iterations=300,
        start=None,
        cursor=CURSOR,
        generator=generator,
        tick=lambda: None,
    )
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
    _, report = reconstruct_block(
        "b",
        block,
        io,
        PAR(learning_rate=1e-9),
        iterations=1,
        start=absurd,
        cursor=CURSOR,
        generator=generator,
        tick=lambda: None,
    )
    assert not report.kept
    assert torch.equal(layer.codes(), codes)
    assert block_loss(block, io, cursor=CURSOR) == before


def test_divergence_names_the_block(generator: torch.Generator) -> None:
    block, io = problem(generator)
    io.target[:] = torch.inf
    with pytest.raises(ReconstructionDiverged, match="block up_blocks"):
        reconstruct_block(
            "up_blocks.0",
            block,
            io,
            PAR(),
            iterations=1,
            start=None,
            cursor=CURSOR,
            generator=generator,
            tick=lambda: None,
        )


def test_the_regularizer_warms_up_and_anneals_linearly() -> None:
    config = PAR(warmup=0.2, beta=(20.0, 2.0))
    betas = [annealed_beta(step, 10, config) for step in range(10)]
    assert betas[:2] == [None, None]
    assert betas[2] == 20.0
    assert betas[6] == pytest.approx(11.0)
    assert betas == sorted(betas, key=lambda b: -(b or 99))


def test_input_grids_are_switched_off_and_restored() -> None:
    layer = QuantLinear(nn.Linear(4, 4), LayerBits(weight_bits=4, activation_bits=4))
    assert layer.input_quantizer is not None
    layer.input_quantizer.fit(torch.tensor(-1.0), torch.tensor(1.0))
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
        reconstruct_block(
            "b",
            block,
            io,
            PAR(),
            iterations=1_000_000,
            start=None,
            cursor=CURSOR,
            generator=generator,
            tick=stop,
        )

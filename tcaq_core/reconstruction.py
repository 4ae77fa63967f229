"""Block reconstruction: learn a block's rounding against its full-precision answer.

BRECQ (2102.05426) with AdaRound (2004.10568) as the optimised variable:
min over V of E |z - z_hat(V)|^2 + lambda * sum(1 - |2 h(V) - 1|^beta).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tcaq_core.calibration import BlockIO
from tcaq_core.denoiser import quant_layers_in
from tcaq_core.errors import ReconstructionDiverged
from tcaq_core.functional import rounding_regularizer
from tcaq_core.quantizers import SoftmaxQuantizer, UniformQuantizer
from tcaq_core.recipe import PAR
from tcaq_core.timesteps import TimestepCursor

GRIDS = (UniformQuantizer, SoftmaxQuantizer)
# How many iterations may pass before the caller can interrupt.
TICK_EVERY = 20


@dataclass(frozen=True)
class BlockReport:
    """What one reconstruction achieved, in mean squared error of the block's output."""

    loss_before: float
    loss_after: float
    kept: bool
    """Whether the learned rounding was better than what it started from."""


Rounding = dict[str, Tensor]
"""A block's rounding variables V by layer name, carried from round to round."""


def reconstruct_block(
    name: str,
    block: nn.Module,
    io: BlockIO,
    config: PAR,
    *,
    iterations: int,
    start: Rounding | None,
    cursor: TimestepCursor,
    generator: torch.Generator,
    tick: Callable[[], None],
) -> tuple[Rounding, BlockReport]:
    """Learn the rounding of every quantized layer of a block; commit if it helped.

    Returns the rounding variables, to warm-start the next round, and the report.
    `tick` is called every few iterations; what it raises comes out.

    Raises:
        ReconstructionDiverged: the loss became NaN or infinite.
    """
    layers = quant_layers_in(block)
    before = block_loss(block, io, cursor=cursor)
    codes = {key: layer.weight_codes for key, layer in layers.items()}
    roundings = {key: layer.open_rounding() for key, layer in layers.items()}
    for key, v in (start or {}).items():
        roundings[key].reopen(v)
    _optimise(
        name,
        block,
        io,
        config,
        iterations=iterations,
        cursor=cursor,
        generator=generator,
        tick=tick,
    )
    learned = {key: rounding.v.detach() for key, rounding in roundings.items()}
    for key, layer in layers.items():
        layer.commit(roundings[key].codes())
    after = block_loss(block, io, cursor=cursor)
    kept = after <= before
    if not kept:
        for key, layer in layers.items():
            if (old := codes[key]) is not None:
                layer.commit(old)
    return learned if kept else (start or {}), BlockReport(before, after, kept)


@torch.no_grad()
def block_loss(block: nn.Module, io: BlockIO, *, cursor: TimestepCursor) -> float:
    """Return the mean squared error of a block's output over its calibration inputs."""
    total = 0.0
    for start in range(0, len(io.t), 32):
        at = slice(start, start + 32)
        with cursor.at(io.t[at]):
            out = block(*(argument[at] for argument in io.inputs))
        total += float((out - io.target[at]).square().double().sum())
    return total / io.target.numel()


def _optimise(
    name: str,
    block: nn.Module,
    io: BlockIO,
    config: PAR,
    *,
    iterations: int,
    cursor: TimestepCursor,
    generator: torch.Generator,
    tick: Callable[[], None],
) -> None:
    layers = quant_layers_in(block).values()
    roundings = [layer.rounding for layer in layers if layer.rounding is not None]
    optimizer = torch.optim.Adam([r.v for r in roundings], lr=config.learning_rate)
    size = min(config.batch_size, len(io.t))
    loss = torch.zeros(())
    with input_grids(block, active=config.quantize_activations):
        for step in range(iterations):
            at = torch.randperm(len(io.t), generator=generator)[:size]
            optimizer.zero_grad(set_to_none=True)
            with torch.enable_grad(), cursor.at(io.t[at]):
                out = block(*(argument[at] for argument in io.inputs))
                loss = squared_error(out, io.target[at])
                beta = annealed_beta(step, iterations, config)
                if beta is not None:
                    for rounding in roundings:
                        penalty = rounding_regularizer(
                            rounding.soft_rounding(), beta=beta
                        )
                        loss = loss + config.regularizer * penalty
                loss.backward()
            optimizer.step()
            if step % TICK_EVERY == 0:
                tick()
    if not bool(torch.isfinite(loss)):
        raise ReconstructionDiverged(
            f"The reconstruction loss of block {name} is {float(loss.detach())}.",
            hint="Lower par.learning_rate, or raise the block's bits.",
        )


@contextmanager
def input_grids(block: nn.Module, *, active: bool) -> Iterator[None]:
    """Run a block with its activation and softmax grids on or off; restores them."""
    grids = [m for m in block.modules() if isinstance(m, GRIDS)]
    before = [grid.is_active for grid in grids]
    for grid in grids:
        grid.is_active = grid.is_active and active
    try:
        yield
    finally:
        for grid, state in zip(grids, before, strict=True):
            grid.is_active = state


def squared_error(
    out: Float[Tensor, "N *S"], target: Float[Tensor, "N *S"]
) -> Float[Tensor, ""]:
    """Return the error summed over the channel dimension, mean over the rest."""
    return (out - target).square().sum(1).mean()


def annealed_beta(step: int, iterations: int, config: PAR) -> float | None:
    """Return the regulariser's exponent at a step; None during the warm-up."""
    start = config.warmup * iterations
    if step < start:
        return None
    high, low = config.beta
    return low + (high - low) * (1 - (step - start) / (iterations - start))

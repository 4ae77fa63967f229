"""Block reconstruction: learn a block's rounding against its full-precision answer.

BRECQ (2102.05426) with AdaRound (2004.10568) as the optimised variable:
min over V of E |z - z_hat(V)|^2 + lambda * sum(1 - |2 h(V) - 1|^beta), and, as the
recipe says, activation scales with LSQ's gradient, drops of activation quantization
(QDrop), the errors of the layers inside (EDA-DM) and focal timestep weights (DMQ).
"""

import math
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import nn

from tcaq_core.block_learning import BlockLearning, input_grids
from tcaq_core.calibration import BlockIO
from tcaq_core.errors import ReconstructionDiverged
from tcaq_core.learned import AdaRound, Rounding
from tcaq_core.objective import Objective, Reconstruction
from tcaq_core.timesteps import TimestepCursor

# How many iterations may pass before the caller can interrupt.
TICK_EVERY = 20


@dataclass(frozen=True)
class BlockReport:
    """What one reconstruction achieved, in mean squared error of the block's output."""

    loss_before: float
    loss_after: float
    kept: bool
    """Whether what was learned was better than what it started from."""
    iterations: int
    optimise_seconds: float


def reconstruct_block(
    task: Reconstruction, *, iterations: int, start: Rounding | None
) -> tuple[Rounding, BlockReport]:
    """Learn what the recipe says inside a block; commit if it helped.

    Returns the rounding variables, to warm-start the next round, and the report.
    `task.tick` is called every few iterations; what it raises comes out.

    Raises:
        ReconstructionDiverged: the loss became NaN or infinite.
    """
    config = task.config
    before = block_loss(task.block, task.io, cursor=task.cursor)
    learning = BlockLearning(task.block, config, generator=task.generator)
    groups = learning.open_roundings(start)
    groups += learning.open_ranges(
        learn=config.learn_ranges == "joint", drop=config.drop
    )
    began = perf_counter()
    roundings = list(learning.roundings.values())
    active = config.quantize_activations
    done = optimise(
        task, groups, iterations=iterations, roundings=roundings, active=active
    )
    learned = learning.commit_roundings()
    learning.commit_ranges()
    if config.learn_ranges == "after":
        groups = learning.open_ranges(learn=True, drop=0.0)
        more = config.range_iterations
        done += optimise(task, groups, iterations=more, roundings=[], active=True)
        learning.commit_ranges()
    seconds = perf_counter() - began
    after = block_loss(task.block, task.io, cursor=task.cursor)
    kept = after <= before
    if not kept:
        learning.undo()
    report = BlockReport(before, after if kept else before, kept, done, seconds)
    return learned if kept else (start or {}), report


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


def optimise(
    task: Reconstruction,
    groups: list[dict[str, Any]],
    *,
    iterations: int,
    roundings: list[AdaRound],
    active: bool,
) -> int:
    """Run Adam on a block's loss; rates of scales and biases decay by a cosine.

    `active` says whether activations are quantized meanwhile. Returns the iterations
    done: none where there is nothing to learn.

    Raises:
        ReconstructionDiverged: the loss became NaN or infinite.
    """
    groups = [group for group in groups if group["params"]]
    if not groups:
        return 0
    optimizer = torch.optim.Adam(groups)
    # Where roundings are learned they are the first group, at a constant rate.
    decaying = optimizer.param_groups[1 if roundings else 0 :]
    rates = [group["lr"] for group in decaying]
    size = min(task.config.batch_size, len(task.io.t))
    loss = torch.zeros(())
    objective = Objective(task, roundings, iterations)
    with (
        input_grids(task.block, active=active),
        objective.watching(),
    ):
        for step in range(iterations):
            for group, rate in zip(decaying, rates, strict=True):
                group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / iterations))
            at = torch.randperm(len(task.io.t), generator=task.generator)[:size]
            optimizer.zero_grad(set_to_none=True)
            with torch.enable_grad():
                loss = objective.loss(at, step)
                loss.backward()
            optimizer.step()
            if step % TICK_EVERY == 0:
                task.tick()
    if not bool(torch.isfinite(loss)):
        raise ReconstructionDiverged(
            f"The reconstruction loss of block {task.name} is {float(loss.detach())}.",
            hint="Lower par.learning_rate, or raise the block's bits.",
        )
    return iterations

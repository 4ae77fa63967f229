"""Progressively aligned reconstruction (TCAQ-DM, "PAR").

A base reconstruction on full-precision trajectories, then rounds in which the
quantized model itself samples new trajectories and every block is reconstructed
again on the states it really visits. Teacher and student see the same x_t; the
student's blocks see what their quantized predecessors produce.

Invariant: the reconstruction loss of a block on its calibration inputs never grows.
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from time import perf_counter
from typing import Any

import torch

from tcaq_core.block_learning import Rounding
from tcaq_core.calibration import (
    BlockIO,
    BlockReplay,
    CalibrationSet,
)
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.journal import Journal, NoJournal
from tcaq_core.objective import Reconstruction
from tcaq_core.recipe import PAR
from tcaq_core.reconstruction import reconstruct_block
from tcaq_core.resume import Blocks, recorded
from tcaq_core.teacher import Teacher
from tcaq_core.workspace import Workspace

Tick = Callable[[int, int], None]
Resample = Callable[[int, Tick], CalibrationSet]
"""Sample calibration data with the quantized model, for a round 1, 2, ...; the second
argument is called after each of the denoiser's evaluations."""


def apply(
    denoiser: QuantizedDenoiser,
    data: CalibrationSet,
    config: PAR,
    *,
    resample: Resample,
    generator: torch.Generator,
    progress: Tick,
    journal: Journal | None = None,
    workspace: Workspace | None = None,
) -> dict[str, object]:
    """Reconstruct every block in each round; return what each achieved, and timing.

    Blocks that the journal holds are put back instead.

    Raises:
        ReconstructionDiverged: a block's loss became NaN or infinite.
        OutOfMemory: the workspace has no room for one block.
        ResumeRefused: as `Journal.read`.
    """
    total = (1 + config.rounds) * len(denoiser.blocks())
    started, capture_seconds = perf_counter(), 0.0
    done = Blocks(
        journal or NoJournal(), denoiser, generator, lambda num: progress(num, total)
    )
    workspace = workspace or Workspace()

    def still_at() -> None:
        progress(len(done.report), total)

    for k in range(1 + config.rounds):
        if done.restore_round(k):
            continue
        visited = data if k == 0 else _visited(k, resample, done, tick=still_at)
        inputs = visited.thin(config.num_inputs)
        teacher = Teacher(
            denoiser,
            _taught(k, inputs, config, resample, done, tick=still_at),
            inside=config.layer_loss > 0,
            workspace=workspace,
        )
        replay = BlockReplay(denoiser, inputs, workspace)
        for name in teacher.blocks():
            began = perf_counter()
            target, layers = teacher.answers(name)
            given = replay.inputs_of(name, beside=target.nbytes)
            io = BlockIO(given, target, inputs.t, layers)
            capture_seconds += perf_counter() - began
            if not done.restore(k, name):
                done.reconstruct(
                    k,
                    name,
                    partial(
                        _reconstruct, k, name, io, config, done=done, tick=still_at
                    ),
                    carries_over=k < config.rounds,
                )
            replay.finish(name, given)
            still_at()
            # Memory is for one block's: these go before the next are captured.
            del io, given, target, layers
    timing = {
        "iterations": sum(block["iterations"] for block in done.report),
        "optimise_seconds": sum(block["optimise_seconds"] for block in done.report),
        "capture_seconds": capture_seconds,
        "total_seconds": perf_counter() - started,
    }
    return {"blocks": done.report, "timing": timing}


def _visited(
    k: int, resample: Resample, done: Blocks, *, tick: Callable[[], None]
) -> CalibrationSet:
    return recorded(
        done.journal,
        f"par/round-{k}/inputs",
        lambda: resample(k, lambda *_: tick()),
        device=done.denoiser.unet.device,
        tick=tick,
    )


def _taught(
    k: int,
    inputs: CalibrationSet,
    config: PAR,
    resample: Resample,
    done: Blocks,
    *,
    tick: Callable[[], None],
) -> CalibrationSet:
    """Return the states on which full precision answers, row by row as `inputs`."""
    if k == 0 or config.teacher == "visited":
        return inputs
    # The same noise, sampled in full precision: other states at the same steps.
    with done.denoiser.full_precision():
        return resample(k, lambda *_: tick()).thin(config.num_inputs)


def _reconstruct(
    k: int,
    name: str,
    io: BlockIO,
    config: PAR,
    *,
    done: Blocks,
    tick: Callable[[], None],
) -> tuple[Rounding, dict[str, Any]]:
    task = Reconstruction(
        name=name,
        block=done.denoiser.blocks()[name],
        io=io,
        config=config,
        cursor=done.denoiser.cursor,
        generator=done.generator,
        tick=tick,
    )
    rounding, block = reconstruct_block(
        task,
        iterations=config.iterations if k == 0 else config.round_iterations,
        start=done.roundings.get(name),
    )
    return rounding, {"round": k, "block": name, **asdict(block)}

"""Progressively aligned reconstruction (TCAQ-DM, "PAR").

A base reconstruction on full-precision trajectories, then rounds in which the
quantized model itself samples new trajectories and every block is reconstructed
again on the states it really visits. Teacher and student see the same x_t; the
student's blocks see what their quantized predecessors produce.

Invariant: the reconstruction loss of a block on its calibration inputs never grows.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch

from tcaq_core.calibration import (
    BlockIO,
    BlockReplay,
    CalibrationSet,
)
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.journal import Journal, NoJournal
from tcaq_core.learned import Rounding
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
    started = perf_counter()
    done = Blocks(
        journal or NoJournal(), denoiser, generator, lambda num: progress(num, total)
    )
    work = Work(
        config,
        resample,
        done,
        workspace or Workspace(),
        tick=lambda: progress(len(done.report), total),
    )
    for k in range(1 + config.rounds):
        if not done.restore_round(k):
            work.round(k, data)
    timing = {
        "iterations": sum(block["iterations"] for block in done.report),
        "optimise_seconds": sum(block["optimise_seconds"] for block in done.report),
        "capture_seconds": work.capture_seconds,
        "total_seconds": perf_counter() - started,
    }
    return {"blocks": done.report, "timing": timing}


@dataclass
class Work:
    """What the rounds of one reconstruction share."""

    config: PAR
    resample: Resample
    done: Blocks
    workspace: Workspace
    tick: Callable[[], None]
    capture_seconds: float = 0.0

    def round(self, k: int, data: CalibrationSet) -> None:
        """Reconstruct every block on `data` (k = 0) or on what the model visits now."""
        denoiser = self.done.denoiser
        inputs = (data if k == 0 else self.visited(k)).thin(self.config.num_inputs)
        teacher = Teacher(
            denoiser,
            self.taught(k, inputs),
            inside=self.config.layer_loss > 0,
            workspace=self.workspace,
        )
        replay = BlockReplay(denoiser, inputs, self.workspace)
        for name in teacher.blocks():
            began = perf_counter()
            target, layers = teacher.answers(name)
            given = replay.inputs_of(name, beside=target.nbytes)
            io = BlockIO(given, target, inputs.t, layers)
            self.capture_seconds += perf_counter() - began
            if not self.done.restore(k, name):
                self.done.reconstruct(
                    k,
                    name,
                    partial(self.reconstruct, k, name, io),
                    carries_over=k < self.config.rounds,
                )
            replay.finish(name, given)
            self.tick()
            # Memory is for one block's: these go before the next are captured.
            del io, given, target, layers

    def visited(self, k: int) -> CalibrationSet:
        """Return the states that sampling with the quantized model visits."""
        return recorded(
            self.done.journal,
            f"par/round-{k}/inputs",
            lambda: self.resample(k, lambda *_: self.tick()),
            device=self.done.denoiser.unet.device,
            tick=self.tick,
        )

    def taught(self, k: int, inputs: CalibrationSet) -> CalibrationSet:
        """Return the states on which full precision answers, row by row as `inputs`."""
        if k == 0 or self.config.teacher == "visited":
            return inputs
        # The same noise, sampled in full precision: other states at the same steps.
        with self.done.denoiser.full_precision():
            own = self.resample(k, lambda *_: self.tick())
        return own.thin(self.config.num_inputs)

    def reconstruct(
        self, k: int, name: str, io: BlockIO
    ) -> tuple[Rounding, dict[str, Any]]:
        """Learn one block; return its roundings and its line of the report."""
        config, done = self.config, self.done
        task = Reconstruction(
            name=name,
            block=done.denoiser.blocks()[name],
            io=io,
            config=config,
            cursor=done.denoiser.cursor,
            generator=done.generator,
            tick=self.tick,
        )
        rounding, block = reconstruct_block(
            task,
            iterations=config.iterations if k == 0 else config.round_iterations,
            start=done.roundings.get(name),
        )
        return rounding, {"round": k, "block": name, **asdict(block)}

"""Progressively aligned reconstruction (TCAQ-DM, "PAR").

A base reconstruction on full-precision trajectories, then rounds in which the
quantized model itself samples new trajectories and every block is reconstructed
again on the states it really visits. Teacher and student see the same x_t; the
student's blocks see what their quantized predecessors produce.

Invariant: the reconstruction loss of a block on its calibration inputs never grows.
"""

from collections.abc import Callable
from dataclasses import asdict

import torch

from tcaq_core.calibration import (
    BlockIO,
    BlockReplay,
    CalibrationSet,
    full_precision_outputs,
)
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.recipe import PAR
from tcaq_core.reconstruction import Rounding, reconstruct_block

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
) -> list[dict[str, object]]:
    """Reconstruct every block in each round; return what each achieved."""
    roundings: dict[str, Rounding] = {}
    report: list[dict[str, object]] = []
    total = (1 + config.rounds) * len(denoiser.blocks())

    def still_at(*_: int) -> None:
        progress(len(report), total)

    for k in range(1 + config.rounds):
        visited = data if k == 0 else resample(k, still_at)
        inputs = visited.thin(config.num_inputs)
        iterations = config.iterations if k == 0 else config.round_iterations
        targets = full_precision_outputs(denoiser, inputs)
        replay = BlockReplay(denoiser, inputs)
        for name in list(targets):
            target = targets.pop(name)
            given = replay.inputs_of(name)
            roundings[name], block = reconstruct_block(
                name,
                denoiser.blocks()[name],
                BlockIO(given, target, inputs.t),
                config,
                iterations=iterations,
                start=roundings.get(name),
                cursor=denoiser.cursor,
                generator=generator,
                tick=still_at,
            )
            replay.finish(name, given)
            report.append({"round": k, "block": name, **asdict(block)})
            progress(len(report), total)
    return report

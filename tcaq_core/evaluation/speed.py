"""How long one evaluation of a denoiser takes, and what memory: float32, bfloat16, int.

An evaluation is one call of the denoiser on a batch; a sampler makes one a step. The
engines run in one process on the same inputs, in rounds in which each has its turn: a
noisy neighbour then disturbs all of them alike.
"""

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import cycle
from typing import Final

import numpy as np
import torch
from diffusers import UNet2DModel
from pydantic import BaseModel
from torch import Tensor, nn

from tcaq_core.checkpoint import Checkpoint
from tcaq_core.difference import forget_trajectory, fresh_trajectory
from tcaq_core.diffusion import Pipeline
from tcaq_core.evaluation.memory import METHOD_CPU, METHOD_CUDA, peak_bytes
from tcaq_core.evaluation.paired import relative_mse
from tcaq_core.runtime.integer import Execution, compile_integer
from tcaq_core.temporal import cached_steps

Forward = Callable[[], object]
Tick = Callable[[int, int], None]
"""Receives (rounds begun, rounds in all); what it raises ends the measurement."""

# A 95th percentile needs some twenty values to be more than the largest one.
ROUNDS: Final = 20
MAX_BATCH: Final = 8
FLOAT32: Final = "float32"
BFLOAT16: Final = "bfloat16"
NUM_ENGINES: Final = 3
# A batch is made smaller before there are fewer rounds than this.
WISHED_ROUNDS: Final = 5
# One evaluation to warm up before the rounds, one for its memory after them.
UNTIMED: Final = 2
# Timesteps in turn, where the checkpoint does not say which ones it knows.
SPREAD: Final = 20
COMPARED: Final = 4


class EngineSpeed(BaseModel, frozen=True, extra="forbid"):
    """One engine's evaluation of the denoiser."""

    p50_seconds_per_image: float
    p95_seconds_per_image: float
    peak_memory_bytes: int
    """Beyond the weights and what was there before, while it runs."""


class Benchmark(BaseModel, frozen=True, extra="forbid"):
    """Engines side by side; seconds are those of one evaluation, for one image."""

    device: str
    threads: int
    batch_size: int
    rounds: int
    engines: dict[str, EngineSpeed]
    """``float32``, ``bfloat16``, and ``integer`` or ``simulated``: what executed."""
    speedup: dict[str, float]
    """Of the quantized engine, in medians: ``over_float32``, ``over_bfloat16``."""
    peak_memory: str
    """How ``peak_memory_bytes`` was measured."""


@dataclass(frozen=True)
class Measured:
    """What a checkpoint executes on here, how exactly, and how fast."""

    execution: Execution
    relative_error: float
    """|eps - eps_simulated| / |eps_simulated| on a seeded probe."""
    benchmark: Benchmark | None
    """None: it was not wanted, or one evaluation takes too long for it."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one forward, over the rounds."""

    p50: float
    p95: float
    rounds: int


def measure(
    forwards: Mapping[str, Forward],
    *,
    rounds: int = ROUNDS,
    seconds: float = float("inf"),
    wait: Callable[[], object] = lambda: None,
    tick: Tick = lambda _done, _total: None,
) -> dict[str, Timing]:
    """Return each forward's seconds; each runs once a round, after one untimed call.

    No round begins once `seconds` have passed, but for the first. `wait` returns when
    the device has finished what a forward started.

    Raises:
        ValueError: no round is asked for.
    """
    if rounds < 1:
        raise ValueError(f"{rounds} rounds measure nothing")
    end = time.perf_counter() + seconds
    found: dict[str, list[float]] = {name: [] for name in forwards}
    for forward in forwards.values():
        tick(0, rounds)
        forward()
    wait()
    for done in range(rounds):
        if done and time.perf_counter() >= end:
            break
        for name, forward in forwards.items():
            tick(done, rounds)
            found[name].append(_seconds_of(forward, wait))
    return {name: _timing(values) for name, values in found.items()}


@torch.no_grad()
def measure_checkpoint(
    model: Pipeline, loaded: Checkpoint, *, seconds: float, tick: Tick
) -> Measured:
    """Compile a reloaded checkpoint in place, and compare it with its original model.

    `model` is the pipeline in float32 that was quantized. The measurement takes about
    `seconds` at most; with 0 there is none.

    Raises:
        TCAQError: as `compile_integer`.
    """
    tick(0, ROUNDS)
    timesteps = _timesteps(model, loaded)
    unet = loaded.pipeline.denoiser
    exact = _answers(loaded.pipeline, timesteps)
    execution = compile_integer(loaded.denoiser)
    error = relative_mse(_answers(loaded.pipeline, timesteps), exact) ** 0.5
    benchmark = None
    batch_size = _batch_size(model, timesteps, seconds) if seconds > 0 else 0
    if batch_size:
        benchmark = _benchmark(
            {FLOAT32: model.denoiser, execution.kind: unet},
            _inputs(model, batch_size),
            timesteps,
            seconds=seconds,
            tick=tick,
        )
    forget_trajectory(unet)
    return Measured(execution, error, benchmark)


def _benchmark(
    unets: Mapping[str, UNet2DModel],
    x_t: Tensor,
    timesteps: tuple[int, ...],
    *,
    seconds: float,
    tick: Tick,
) -> Benchmark:
    quantized = next(name for name in unets if name != FLOAT32)
    # The original network as it is, in the type that its hardware multiplies fastest.
    halved = _in_bfloat16(unets[FLOAT32])
    device, batch_size = x_t.device, len(x_t)
    forwards = {
        FLOAT32: _forward(unets[FLOAT32], x_t, timesteps),
        BFLOAT16: _forward(halved, x_t.bfloat16(), timesteps),
        quantized: _forward(unets[quantized], x_t, timesteps),
    }
    timings = measure(forwards, seconds=seconds, wait=_wait(device), tick=tick)
    peaks = {}
    for name, forward in forwards.items():
        tick(ROUNDS, ROUNDS)
        peaks[name] = peak_bytes(forward, device)
    median = {name: timing.p50 for name, timing in timings.items()}
    return Benchmark(
        device=device.type,
        threads=torch.get_num_threads(),
        batch_size=batch_size,
        rounds=timings[FLOAT32].rounds,
        engines={
            name: EngineSpeed(
                p50_seconds_per_image=timing.p50 / batch_size,
                p95_seconds_per_image=timing.p95 / batch_size,
                peak_memory_bytes=peaks[name],
            )
            for name, timing in timings.items()
        },
        speedup={
            f"over_{name}": median[name] / median[quantized]
            for name in (FLOAT32, BFLOAT16)
        },
        peak_memory=METHOD_CUDA if device.type == "cuda" else METHOD_CPU,
    )


def _in_bfloat16(unet: UNet2DModel) -> UNet2DModel:
    # Parameters are converted on the way: a copy in float32 of a large model would be
    # one too many.
    halves = {
        id(parameter): nn.Parameter(parameter.to(torch.bfloat16), requires_grad=False)
        for parameter in unet.parameters()
    }
    halved = copy.deepcopy(unet, halves)
    # diffusers' own `to` warns of layers to be kept in float32: it names none here.
    nn.Module.to(halved, torch.bfloat16)
    return halved


def _forward(unet: UNet2DModel, x_t: Tensor, timesteps: tuple[int, ...]) -> Forward:
    # In a sampler's order: what follows a trajectory is then measured within one.
    in_turn = cycle(timesteps)

    @torch.no_grad()
    def forward() -> Tensor:
        t = torch.full((len(x_t),), next(in_turn), device=x_t.device)
        eps: Tensor = unet(x_t, t, return_dict=False)[0]
        return eps

    return forward


def _answers(pipeline: Pipeline, timesteps: tuple[int, ...]) -> Tensor:
    stride = max(1, len(timesteps) // COMPARED)
    forward = _forward(
        pipeline.denoiser, _inputs(pipeline, 2), timesteps[::stride][:COMPARED]
    )
    with fresh_trajectory(pipeline.denoiser):
        return torch.cat([torch.as_tensor(forward()) for _ in range(COMPARED)])


def _batch_size(model: Pipeline, timesteps: tuple[int, ...], seconds: float) -> int:
    """Return the images of a batch; 0 where not even one leaves time for a round."""
    device = model.denoiser.device
    forward, wait = (
        _forward(model.denoiser, _inputs(model, 1), timesteps),
        _wait(device),
    )
    forward()
    one = _seconds_of(forward, wait)
    if NUM_ENGINES * (UNTIMED + 1) * one > seconds:
        return 0
    fitting = seconds / (NUM_ENGINES * (UNTIMED + WISHED_ROUNDS) * one)
    return max(1, min(MAX_BATCH, int(fitting)))


def _timesteps(model: Pipeline, loaded: Checkpoint) -> tuple[int, ...]:
    steps = cached_steps(loaded.denoiser) or loaded.denoiser.cursor.steps
    if steps is not None:
        return steps.timesteps
    stride = max(1, model.num_timesteps // SPREAD)
    return tuple(range(0, model.num_timesteps, stride))[::-1]


def _inputs(model: Pipeline, batch_size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x_t = torch.randn((batch_size, *model.image_shape), generator=generator)
    return x_t.to(model.denoiser.device)


def _wait(device: torch.device) -> Callable[[], None]:
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None


def _seconds_of(forward: Forward, wait: Callable[[], object]) -> float:
    began = time.perf_counter()
    forward()
    wait()
    return time.perf_counter() - began


def _timing(values: list[float]) -> Timing:
    p50, p95 = np.percentile(values, [50, 95])
    return Timing(float(p50), float(p95), len(values))

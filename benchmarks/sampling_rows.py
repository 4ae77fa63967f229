"""Rows of the sampling benchmark: engines in turn, medians, ratios within rounds."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from statistics import median, quantiles
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks.sampling_kernels import KernelTimes
from benchmarks.sampling_peak import Peak
from benchmarks.sampling_workload import BFLOAT16, FLOAT32, Engine, Workload, timed
from tcaq_core.evaluation.paired import relative_mse

BASELINES: Final = (FLOAT32, BFLOAT16)


@dataclass
class Runner:
    """An engine, what it runs, and what was measured of it."""

    engine: Engine
    work: Workload
    eps: Tensor
    """Its predictions at all timesteps, one after the other."""
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Row:
    """One engine at one bit setting, on one model."""

    engine: str
    model: str
    weight_bits: int
    activation_bits: int
    batch: int
    seconds_per_forward: float
    """Median over rounds."""
    peak_bytes: int
    weight_bytes: int
    load_peak_bytes: int
    seconds_quartiles: tuple[float, float]
    speedup: dict[str, tuple[float, float, float]]
    """By baseline, how many times its seconds are these: the ratio of medians, and
    the quartiles of the ratios within rounds."""
    relative_error: float | None
    """Of the predictions, against float32's on the same noise and timesteps."""
    device: str
    threads: int
    note: str


@torch.no_grad()
def measure(runners: Sequence[Runner], *, rounds: int) -> None:
    """Time every engine once a round, after one untimed forward of its own."""
    timesteps = [runner.work.timesteps() for runner in runners]
    inputs = [r.work.noise(r.engine.shape).to(r.engine.dtype) for r in runners]
    for done in range(rounds):
        for runner, ts, x_t in zip(runners, timesteps, inputs, strict=True):
            engine, t = runner.engine, ts[done % len(ts)]
            engine.forward(x_t, ts[(done - 1) % len(ts)])
            _, seconds = timed(partial(engine.forward, x_t, t), x_t.device)
            runner.seconds.append(seconds)


def make_row(runner: Runner, runners: Sequence[Runner], peak: Peak) -> Row:
    """Return what was measured of one engine, beside the baselines of its run."""
    engine, work = runner.engine, runner.work
    exact = next((r.eps for r in runners if r.engine.name == FLOAT32), None)
    return Row(
        engine=engine.name,
        model=work.model.name,
        weight_bits=engine.weight_bits,
        activation_bits=engine.activation_bits,
        batch=work.batch,
        seconds_per_forward=median(runner.seconds),
        peak_bytes=peak.peak_bytes,
        weight_bytes=engine.weight_bytes,
        load_peak_bytes=peak.load_peak_bytes,
        seconds_quartiles=_quartiles(runner.seconds),
        speedup={
            other.engine.name: (
                median(other.seconds) / median(runner.seconds),
                *_quartiles(
                    [b / a for a, b in zip(runner.seconds, other.seconds, strict=True)]
                ),
            )
            for other in runners
            if other.engine.name in BASELINES
        },
        relative_error=None
        if exact is None
        else relative_mse(runner.eps, exact) ** 0.5,
        device=_device_name(work.device),
        threads=work.threads,
        note=engine.note,
    )


def _quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def document(row: Row, kernels: KernelTimes | None) -> dict[str, Any]:
    """Return a row as JSON has it; `kernels` under its own key."""
    return asdict(row) | ({} if kernels is None else {"kernels": asdict(kernels)})

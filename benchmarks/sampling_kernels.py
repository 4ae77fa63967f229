"""How far a forward is from the sum of its integer kernels' own times.

One forward is recorded: what every kernel was given. Then each call is repeated alone,
products without the addition that they may carry, and the medians are added up. What a
forward takes beyond its products is quantizing, normalising, and what lies between.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Final

import torch
from torch import Tensor

from benchmarks.sampling_engines import build
from benchmarks.sampling_recorder import Call, Recorder
from benchmarks.sampling_workload import INT8, Workload, timed
from tcaq_core import checkpoint
from tcaq_core.runtime.backend import fastest_kernels

PRODUCTS: Final = ("conv", "linear")
KINDS: Final = (*PRODUCTS, "attention", "norm_quantize", "quantize")
# On a GPU a call is repeated in one graph: launching takes longer than computing.
REPEATS: Final = 20
# Dense int8 operations a second (a multiplication and an addition are two) by a part
# of the device's name: NVIDIA's data sheets. The more special name comes first.
PEAKS: Final = {
    "H100 PCIe": 1513e12,
    "H100 NVL": 1671e12,
    "H100": 1979e12,
    "H200": 1979e12,
    "A100": 624e12,
    "L40S": 733e12,
    "L4": 242e12,
    "T4": 130e12,
}


@dataclass(frozen=True)
class KernelTime:
    """Equal calls of one forward together."""

    kind: str
    what: str
    calls: int
    operations: int
    seconds: float


@dataclass(frozen=True)
class KernelTimes:
    """A forward's kernels, each alone, and the forward itself."""

    kernels: list[KernelTime]
    forward_seconds: float
    operations: int
    """Of all products of codes in one forward."""
    peak_operations_per_second: float | None
    """The device's dense int8 peak; None where it is not known."""

    def seconds_of(self, *kinds: str) -> float:
        """Return the sum of the kernels' own times, of some kinds."""
        return sum(k.seconds for k in self.kernels if k.kind in kinds)


@torch.no_grad()
def kernel_times(work: Workload, *, rounds: int) -> KernelTimes:
    """Return what each kernel of one forward takes alone, and the forward.

    Raises:
        EngineUnavailable, NoKernels: the checkpoint cannot run on integers here.
    """
    if work.checkpoint is None:
        raise ValueError("kernels are those of a checkpoint")
    loaded = checkpoint.load(work.checkpoint, device=work.device)
    recorder = Recorder(fastest_kernels(loaded.denoiser)[0])
    watched, engine = build(INT8, work, kernels=recorder), build(INT8, work)
    x_t, t = work.noise(engine.shape), work.timesteps()[0]
    watched.forward(x_t, t)
    recorder.is_recording = True
    watched.forward(x_t, t)
    recorder.is_recording = False
    # In one loop: what disturbs the kernels also disturbs the forward.
    forward = partial(engine.forward, x_t, t)
    times = _in_turn([forward, *(c.run for c in recorder.calls)], work, rounds)
    return KernelTimes(
        _grouped(recorder.calls, times[1:]),
        times[0],
        sum(call.operations for call in recorder.calls),
        int8_peak(work.device),
    )


def _in_turn(
    calls: list[Callable[[], Tensor]], work: Workload, rounds: int
) -> list[float]:
    if work.device.type == "cuda":
        calls = [calls[0], *(_repeated(call, work.device) for call in calls[1:])]
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, found in zip(calls, seconds, strict=True):
            call()
            found.append(timed(call, work.device)[1])
    times = [median(found) for found in seconds]
    repeats = REPEATS if work.device.type == "cuda" else 1
    return [times[0], *(each / repeats for each in times[1:])]


def _repeated(call: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """Return a call's `REPEATS` repetitions as one graph."""
    call()
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(REPEATS):
            out = call()

    def replayed() -> Tensor:
        graph.replay()
        return out

    return replayed


def _grouped(calls: list[Call], seconds: list[float]) -> list[KernelTime]:
    """Return equal calls together, the longest first."""
    groups: dict[tuple[str, str], list[tuple[Call, float]]] = {}
    for call, each in zip(calls, seconds, strict=True):
        groups.setdefault((call.kind, call.what), []).append((call, each))
    kernels = [
        KernelTime(
            kind=kind,
            what=what,
            calls=len(group),
            operations=sum(call.operations for call, _ in group),
            seconds=sum(each for _, each in group),
        )
        for (kind, what), group in groups.items()
    ]
    return sorted(kernels, key=lambda kernel: -kernel.seconds)


def int8_peak(device: torch.device) -> float | None:
    """Return a GPU's dense int8 operations a second, if the table knows it."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)

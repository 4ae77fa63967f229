"""The memory that one engine takes, measured in a process of its own.

    python -m benchmarks.sampling_peak --engine NAME --model FOLDER --batch N ...

Prints ``{"peak_bytes": ..., "load_peak_bytes": ...}``. On a CPU both are resident
memory beyond what the process had after its imports: the most during forwards, and
the most including loading and compiling. They are read from the kernel's high-water
mark of this address space, which can start again (`ru_maxrss` cannot, and a child
begins with its parent's). On CUDA both are what the allocator handed out.
"""

import argparse
import ctypes
import gc
import importlib
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from benchmarks.sampling_engines import build
from benchmarks.sampling_openvino import import_openvino
from benchmarks.sampling_workload import (
    COMPILED,
    ENGINES,
    OPENVINO,
    EngineUnavailable,
    Workload,
)

ROOT: Final = Path(__file__).parents[1]


@dataclass(frozen=True)
class Peak:
    """What an engine takes, in bytes."""

    peak_bytes: int
    """The most while it runs forwards, weights included."""
    load_peak_bytes: int
    """The most from start to end."""


def measure_peak(name: str, work: Workload) -> Peak:
    """Run an engine in a fresh process and return what it took.

    Raises:
        RuntimeError: the process failed; the message has what it wrote.
    """
    arguments = ["--engine", name, "--model", str(work.model)]
    arguments += ["--batch", str(work.batch), "--device", str(work.device)]
    arguments += ["--threads", str(work.threads), "--seed", str(work.seed)]
    for option in ("checkpoint", "intermediate"):
        if (path := getattr(work, option)) is not None:
            arguments += [f"--{option}", str(path)]
    done = subprocess.run(  # noqa: S603  (this interpreter, this module)
        [sys.executable, "-m", "benchmarks.sampling_peak", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {name} failed:\n{done.stderr}")
    return Peak(**json.loads(done.stdout.splitlines()[-1]))


@torch.no_grad()
def own_peak(name: str, work: Workload) -> Peak:
    """Load an engine here, run it at every timestep, and return what it took."""
    # Libraries are no part of what an engine takes, also those imported late.
    if name == COMPILED:
        importlib.import_module("torch._inductor.compile_fx")
    if name == OPENVINO:
        import_openvino(work.device)
    is_cuda = work.device.type == "cuda"
    before = 0 if is_cuda else _resident("VmRSS")
    _reset(work.device)
    engine = build(name, work)
    x_t = work.noise(engine.shape).to(engine.dtype)
    for t in work.timesteps():
        engine.forward(x_t, t)
    loaded = _peak(work.device)
    # What loading freed but the allocator kept is no part of a forward.
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    _reset(work.device)
    for t in work.timesteps():
        engine.forward(x_t, t)
    running = _peak(work.device)
    return Peak(running - before, max(running, loaded) - before)


def _reset(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        # 5: the high-water mark starts again (man 5 proc).
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _resident("VmHWM")


def _resident(field: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    if found is None:
        raise RuntimeError(f"/proc/self/status has no {field}")
    return int(found[1]) * 1024


def main() -> None:
    """Measure one engine and print its peaks as JSON."""
    parser = argparse.ArgumentParser(description="memory of one engine")
    parser.add_argument("--engine", choices=ENGINES, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--intermediate", type=Path)
    options = vars(parser.parse_args())
    name = options.pop("engine")
    torch.set_num_threads(options["threads"])
    try:
        found = own_peak(name, Workload(**options))
    except EngineUnavailable as error:
        sys.exit(str(error))
    print(json.dumps(vars(found)))


if __name__ == "__main__":
    main()

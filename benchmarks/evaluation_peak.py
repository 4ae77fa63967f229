"""The memory that one engine, or one score, takes, in a process of its own.

    python -m benchmarks.evaluation_peak extract NAME FOLDER --images 64
    python -m benchmarks.evaluation_peak frechet LABEL --images 2500 --width 2048
    python -m benchmarks.evaluation_peak score FOLDER
    python -m benchmarks.evaluation_peak reference FOLDER

Prints one JSON object. ``peak_bytes`` is resident memory beyond what the process had
after its imports (``floor_bytes``: the interpreter, torch, and the libraries), from the
kernel's high-water mark. `ru_maxrss` would not do: a child begins with its parent's.
Pages of files that are mapped for a moment count, too.
"""

import argparse
import ctypes
import gc
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

import torch

from benchmarks import evaluation_fidelity as fidelity
from benchmarks.evaluation_engines import ENGINES, TORCH_FIDELITY, build, steps
from benchmarks.evaluation_scoring import score_folder, write_reference
from benchmarks.evaluation_workload import random_features, random_images

ROOT: Final = Path(__file__).parents[1]


@dataclass(frozen=True)
class Peak:
    """What a piece of work takes."""

    peak_bytes: int
    """The most while it runs, weights included."""
    load_peak_bytes: int
    """The most from start to end."""
    floor_bytes: int
    """Resident before it: the interpreter, torch and the libraries."""
    seconds: float


def measure_peak(*arguments: str | Path, threads: int) -> Peak:
    """Run a piece of work in a fresh process and return what it took.

    Raises:
        RuntimeError: the process failed; the message has what it wrote.
    """
    command = [sys.executable, "-m", "benchmarks.evaluation_peak"]
    command += [*map(str, arguments), "--threads", str(threads)]
    done = subprocess.run(  # noqa: S603  (this interpreter, this module)
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"measuring {arguments} failed:\n{done.stderr}")
    return Peak(**json.loads(done.stdout.splitlines()[-1]))


def own_peak(work: Callable[[], object], *, before: int, loaded: int) -> Peak:
    """Run a piece of work here and return what it took beyond `before` bytes.

    `loaded` is the high-water mark of what was loaded for it.
    """
    # What loading freed but the allocator kept is no part of the work.
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    start_again()
    began = perf_counter()
    work()
    seconds = perf_counter() - began
    peak = resident("VmHWM")
    return Peak(peak - before, max(peak, loaded) - before, before, seconds)


def extract_peak(name: str, folder: Path, num_images: int) -> Peak:
    """Load an engine here, extract features of so many images, return what it took."""
    if name == TORCH_FIDELITY:
        # Libraries are no part of what an engine takes.
        fidelity.require()
    images = random_images(num_images, seed=0)
    before = resident("VmRSS")
    start_again()
    engine = build(name, folder)
    loaded = resident("VmHWM")
    return own_peak(lambda: engine.extract(images), before=before, loaded=loaded)


def frechet_peak(label: str, num_images: int, width: int) -> Peak:
    """Take a Frechet step here, on features that are there, return what it took."""
    features, reference = (
        random_features(num_images, width=width, seed=seed) for seed in (0, 1)
    )
    engine = next(name for name in ENGINES if label.startswith(f"{name} "))
    step = next(step for step in steps(engine, reference) if step.label == label)
    before = resident("VmRSS")
    return own_peak(lambda: step.compute(features), before=before, loaded=before)


def files_peak(work: Callable[[], object]) -> Peak:
    """Do work here whose inputs are files, return what it took."""
    before = resident("VmRSS")
    return own_peak(work, before=before, loaded=before)


def start_again() -> None:
    """Have the kernel's high-water mark start again (5: man 5 proc)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def resident(field: str) -> int:
    """Return ``VmRSS`` or ``VmHWM`` of this process, in bytes.

    Raises:
        RuntimeError: the kernel does not say.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    if found is None:
        raise RuntimeError(f"/proc/self/status has no {field}")
    return int(found[1]) * 1024


def main() -> None:
    """Measure one piece of work and print its peaks as JSON."""
    arguments = _parse()
    torch.set_num_threads(arguments.threads)
    match arguments.command:
        case "extract":
            found = extract_peak(arguments.name, arguments.folder, arguments.images)
        case "frechet":
            found = frechet_peak(arguments.label, arguments.images, arguments.width)
        case "score":
            found = files_peak(lambda: score_folder(arguments.folder))
        case _:
            found = files_peak(lambda: write_reference(arguments.folder))
    print(json.dumps(asdict(found)))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="memory of one piece of work")
    commands = parser.add_subparsers(dest="command", required=True)
    extract = commands.add_parser("extract")
    extract.add_argument("name", choices=ENGINES)
    extract.add_argument("folder", type=Path)
    frechet = commands.add_parser("frechet")
    frechet.add_argument("label")
    frechet.add_argument("--width", type=int, required=True)
    for command in (extract, frechet):
        command.add_argument("--images", type=int, required=True)
    for name in ("score", "reference"):
        commands.add_parser(name).add_argument("folder", type=Path)
    for command in commands.choices.values():
        command.add_argument("--threads", type=int, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()

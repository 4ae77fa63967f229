"""Images per second and bytes of a score, and that it is the same whoever worked.

    python -m benchmarks.evaluation [--json] [--images 64] [--rounds 5] [--threads 1]
    python -m benchmarks.evaluation --skip sharding,memory

Five kinds of rows:

- features: torch-fidelity, pytorch-fid-style code and ours on one random Inception, in
  one process, one after the other in every round, so that a busy moment hits all of
  them: medians over rounds, their ratios, and the quartiles of the ratios within
  rounds. Peak memory is measured in a fresh process each (benchmarks.evaluation_peak).
- NAME score: the whole score with that engine (benchmarks.evaluation_features).
- score-N, reference-N: scoring N images, and making a reference of N, through the
  files that workers write. The extractor is a stand-in, so images per second are those
  of everything behind it; peak memory must not grow with N.
- sharding: one evaluation on a real stack by one worker, by two, and by two of which
  one is killed midway. The score must be the same to the last bit.
- simulation: up to 100 workers, computed from what was measured
  (benchmarks.evaluation_runs.Cost).

`--json` prints the rows as one JSON array; nothing else goes to standard output.
"""

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import torch

from benchmarks.evaluation_engines import NUM_FEATURES, save_weights
from benchmarks.evaluation_features import (
    Work,
    feature_rows,
    measure_extract_peaks,
    measure_features,
    measure_scores,
    measure_step_peaks,
    score_rows,
)
from benchmarks.evaluation_peak import measure_peak
from benchmarks.evaluation_runs import Cost, Run, sharding_row, simulation_rows
from benchmarks.evaluation_scoring import score_folder, write_inputs
from benchmarks.evaluation_sharding import Ground, run
from benchmarks.evaluation_table import print_rows

ROOT: Final = Path(__file__).resolve().parents[1]
PARTS: Final = ("features", "memory", "sharding")
SIMULATED_IMAGES: Final = 50_000
SIMULATED_SHARD: Final = 250
"""What the named protocols draw, and the default size of a shard."""
MEMORY_WIDTH: Final = 512
SIMULATED_WIDTH: Final = 64
"""As wide as the shipped network's features."""

Rows = list[dict[str, Any]]


def main() -> None:
    """Measure and print."""
    arguments = _parse()
    torch.set_num_threads(arguments.threads)
    # Also then, the stack is stopped.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit("terminated"))
    missing: dict[str, str] = {}
    rows: Rows = []
    with tempfile.TemporaryDirectory(prefix="tcaq-evaluation-") as scratch:
        folder = Path(scratch)
        if "features" not in arguments.skip:
            rows += _features(arguments, folder, missing)
        if "memory" not in arguments.skip:
            rows += _memory(arguments, folder)
        if "sharding" not in arguments.skip:
            rows += _sharding(arguments, folder)
    if arguments.json:
        print(json.dumps(rows, indent=1))
        for name, why in missing.items():
            _tell(f"{name}: left out. {why}")
        return
    print_rows(rows, missing)


def _features(
    arguments: argparse.Namespace, folder: Path, missing: dict[str, str]
) -> Rows:
    save_weights(folder, seed=arguments.seed)
    work = Work(
        folder=folder,
        num_images=arguments.images,
        rounds=arguments.rounds,
        threads=arguments.threads,
        score_images=arguments.score_images,
        score_rounds=arguments.score_rounds,
        width=arguments.width,
    )
    _tell("extracting features")
    runners = measure_features(work, missing)
    rows = feature_rows(runners, measure_extract_peaks(runners, work), work)
    _tell("scoring features")
    names = [runner.engine.name for runner in runners]
    scorers = measure_scores(work, names, missing)
    peaks = measure_step_peaks(scorers, work)
    by_engine = {row["engine"]: row for row in rows}
    return rows + score_rows(scorers, peaks, by_engine, work)


def _memory(arguments: argparse.Namespace, folder: Path) -> Rows:
    return list(_memory_rows(arguments, folder))


def _memory_rows(
    arguments: argparse.Namespace, folder: Path
) -> Iterator[dict[str, Any]]:
    for num_images in arguments.memory_images:
        _tell(f"scoring {num_images} images from files")
        inputs = write_inputs(
            folder / f"inputs-{num_images}",
            num_images=num_images,
            width=arguments.memory_width,
            num_reference=2 * min(arguments.memory_images),
        )
        for command in ("score", "reference"):
            peak = measure_peak(command, inputs, threads=arguments.threads)
            yield {
                "engine": f"{command}-{num_images}",
                "images_per_second": num_images / peak.seconds,
                "peak_bytes": peak.peak_bytes,
                "images": num_images,
                "floor_bytes": peak.floor_bytes,
                "seconds": peak.seconds,
                "note": f"{arguments.memory_width} features an image",
            }


def _sharding(arguments: argparse.Namespace, folder: Path) -> Rows:
    ground = Ground(
        models=arguments.models,
        model=arguments.model,
        evaluation=arguments.evaluation,
        extractor=arguments.extractor,
        reference=arguments.reference,
        num_images=arguments.sharding_images,
        num_steps=arguments.sharding_steps,
        shard_images=arguments.shard_images,
    )
    runs: dict[str, Run] = {}
    for name, helpers, kill in (
        ("alone", 0, False),
        ("both", 1, False),
        ("killed", 1, True),
    ):
        _tell(f"evaluating with {1 + helpers} workers{', one killed' * kill}")
        runs[name] = run(ground, folder / name, helpers=helpers, kill=kill)
    row = sharding_row(**runs)
    return [row, *_simulation(runs["alone"], folder)]


def _simulation(alone: Run, folder: Path) -> Rows:
    _tell(f"scoring {SIMULATED_IMAGES} images")
    inputs = write_inputs(
        folder / "simulated",
        num_images=SIMULATED_IMAGES,
        width=SIMULATED_WIDTH,
        num_reference=SIMULATED_WIDTH * 4,
    )
    began = perf_counter()
    score_folder(inputs, metrics=("fd",))
    cost = Cost(
        setup=alone.setup_seconds,
        image=alone.seconds_per_image,
        gap=alone.gap_seconds,
        score=perf_counter() - began,
    )
    return simulation_rows(
        cost, num_images=SIMULATED_IMAGES, shard_images=SIMULATED_SHARD
    )


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parts(text: str) -> list[str]:
    names = text.split(",") if text else []
    if unknown := [name for name in names if name not in PARTS]:
        raise argparse.ArgumentTypeError(
            f"unknown {', '.join(unknown)}; there are {', '.join(PARTS)}"
        )
    return names


def _counts(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    parser.add_argument("--skip", type=_parts, default=[], help=",".join(PARTS))
    parser.add_argument("--seed", type=int, default=0)
    for name, count in {
        "images": 64,
        "rounds": 5,
        "threads": 1,
        "score-images": 2_500,
        "score-rounds": 2,
        "width": NUM_FEATURES,
        "memory-width": MEMORY_WIDTH,
        "sharding-images": 320,
        "sharding-steps": 4,
        "shard-images": 20,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--memory-images", type=_counts, default=[2_000, 20_000])
    parser.add_argument("--models", type=Path, default=ROOT / "models")
    parser.add_argument("--model", default="ddpm-cifar10-small")
    parser.add_argument("--evaluation", type=Path, default=ROOT / "evaluation")
    parser.add_argument("--extractor", default="resnet14-cifar10")
    parser.add_argument("--reference", default="cifar10-train")
    arguments = parser.parse_args()
    _check(parser, arguments)
    return arguments


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    for name in ("images", "rounds", "threads", "score_rounds", "width"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if arguments.score_images <= arguments.width:
        parser.error(f"--score-images must be more than {arguments.width} (--width)")
    if min(arguments.memory_images) <= arguments.memory_width:
        parser.error("--memory-images must be more than --memory-width")


if __name__ == "__main__":
    main()

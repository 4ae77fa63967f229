"""Seconds and bytes of one forward: diffusers, OpenVINO and integers, side by side.

    python -m benchmarks.sampling [--json] [--model FOLDER|cifar10-35m] [--batch 8]
    python -m benchmarks.sampling --model cifar10-35m --bits W8A8 --kernels
    python -m benchmarks.sampling --model FOLDER --checkpoint CHECKPOINT --device cuda

All engines take the same noise and timesteps in one process on the same threads, one
after the other in every round, so that a busy moment hits all of them: what is
reported are medians over rounds, their ratios, and the quartiles of the ratios within
rounds. Each timed forward follows an untimed one of the same engine, as in sampling.
Memory is measured in a fresh process an engine (benchmarks.sampling_peak).

`cifar10-35m` is the DDPM UNet of CIFAR-10 (35.7M parameters) with random weights: its
seconds and bytes mean something, its pictures do not. Without --checkpoint a quick
recipe quantizes the model first, once for each bit setting. `--json` prints the rows
as one JSON array; nothing else goes to standard output.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.quality import DEMO_MODEL, _bits
from benchmarks.sampling_engines import build
from benchmarks.sampling_kernels import kernel_times
from benchmarks.sampling_models import CIFAR10_35M, quantize_quickly, save_cifar10_35m
from benchmarks.sampling_openvino import convert_for_openvino
from benchmarks.sampling_peak import measure_peak
from benchmarks.sampling_rows import Row, Runner, document, make_row, measure
from benchmarks.sampling_table import print_kernels, print_rows
from benchmarks.sampling_workload import (
    ENGINES,
    INT8,
    OPENVINO,
    EngineUnavailable,
    Workload,
)
from tcaq_core.checkpoint import read_manifest
from tcaq_core.model_folder import inspect_model_folder


def main() -> None:
    """Measure and print one row per engine and bit setting."""
    arguments = _parse()
    torch.set_num_threads(arguments.threads)
    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="tcaq-sampling-") as scratch:
        runners = _prepare(arguments, Path(scratch), missing)
        if not runners:
            sys.exit("\n".join(f"{name}: {why}" for name, why in missing.items()))
        measure(runners, rounds=arguments.rounds)
        rows = [_row(runner, runners) for runner in runners]
        kernels = [
            kernel_times(runner.work, rounds=arguments.rounds)
            if arguments.kernels and runner.engine.name == INT8
            else None
            for runner in runners
        ]
    if arguments.json:
        found = [document(*both) for both in zip(rows, kernels, strict=True)]
        print(json.dumps(found, indent=1))
        for name, why in missing.items():
            _tell(f"{name}: left out. {why}")
        return
    print_rows(rows, missing)
    for runner, times in zip(runners, kernels, strict=True):
        if times is not None:
            print_kernels(runner.engine.label, times)


def _prepare(
    arguments: argparse.Namespace, scratch: Path, missing: dict[str, str]
) -> list[Runner]:
    work = Workload(
        model=_model(arguments, scratch),
        batch=arguments.batch,
        device=arguments.device,
        threads=arguments.threads,
        seed=arguments.seed,
    )
    runners = []
    for name in arguments.engines:
        try:
            for each in _workloads(name, work, arguments, scratch):
                _tell(f"preparing {name}")
                runners.append(_runner(name, each))
        except EngineUnavailable as error:
            missing[name] = str(error)
    return runners


@torch.no_grad()
def _runner(name: str, work: Workload) -> Runner:
    engine = build(name, work)
    x_t = work.noise(engine.shape).to(engine.dtype)
    # Copied at once: graphs write every answer to the same place.
    eps = [engine.forward(x_t, t).float().clone() for t in work.timesteps()]
    return Runner(engine, work, torch.cat(eps))


def _workloads(
    name: str, work: Workload, arguments: argparse.Namespace, scratch: Path
) -> list[Workload]:
    """Return what an engine runs, made where it is not there: an item a row."""
    if name == OPENVINO:
        made = convert_for_openvino(work, scratch / "openvino" / "model.xml")
        return [replace(work, intermediate=made)]
    if name != INT8:
        return [work]
    if arguments.checkpoint is not None:
        _check_same_model(arguments.checkpoint, work.model)
        return [replace(work, checkpoint=arguments.checkpoint)]
    found = []
    for bits in arguments.bits:
        _tell(f"quantizing {work.model.name} to W{bits[0]}A{bits[1]}")
        out = scratch / f"W{bits[0]}A{bits[1]}"
        quantize_quickly(work.model, out, bits, device=work.device, seed=work.seed)
        found.append(replace(work, checkpoint=out))
    return found


def _row(runner: Runner, runners: list[Runner]) -> Row:
    _tell(f"measuring the memory of {runner.engine.label}")
    return make_row(runner, runners, measure_peak(runner.engine.name, runner.work))


def _check_same_model(checkpoint: Path, model: Path) -> None:
    stored = read_manifest(checkpoint).float32_bytes
    given = 4 * inspect_model_folder(model).num_parameters
    if stored != given:
        sys.exit(
            f"{checkpoint} is of a model with {stored // 4} parameters; {model.name} "
            f"has {given // 4}. Name the checkpoint's own model with --model."
        )


def _model(arguments: argparse.Namespace, scratch: Path) -> Path:
    if arguments.model != CIFAR10_35M:
        return Path(arguments.model).resolve()
    return save_cifar10_35m(scratch / CIFAR10_35M, seed=arguments.seed)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _engines(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in ENGINES]:
        raise argparse.ArgumentTypeError(
            f"unknown {', '.join(unknown)}; there are {', '.join(ENGINES)}"
        )
    return names


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default=str(DEMO_MODEL), help=f"a pipeline folder or {CIFAR10_35M}"
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--bits", type=_bits, default=_bits("W8A8,W4A8,W4A4"))
    weights.add_argument(
        "--checkpoint", type=Path, help="a ready one of the same model, not --bits"
    )
    parser.add_argument("--engines", type=_engines, default=list(ENGINES))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    parser.add_argument(
        "--kernels", action="store_true", help="time every integer kernel alone"
    )
    arguments = parser.parse_args()
    for name in ("batch", "rounds", "threads"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return arguments


if __name__ == "__main__":
    main()

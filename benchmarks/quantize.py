"""Where the time and the memory of a quantization go, stage by stage.

    python -m benchmarks.quantize [--model FOLDER] [--recipes rtn,tcaq] [--bits W4A8]
    python -m benchmarks.quantize --recipes mine.json --device cuda --json rows.json

`iterations_per_second` and `capture_share` (of the stage's time, spent on running the
denoiser up to the block at hand) are those of reconstruction. `peak_bytes` is the
most that the process held during the stage; on CUDA, the most that it held there.

The last line is the rate at which calibration multiplied, from which
`tcaq_core.estimate` derives seconds, and how far off its estimates were.
"""

import argparse
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from benchmarks.quality import DEMO_MODEL, _bits, _method, _recipes
from tcaq_core.environment import describe_environment
from tcaq_core.estimate import MULTIPLICATIONS_PER_SECOND, estimate
from tcaq_core.folder_job import quantize_folder
from tcaq_core.network import read_network
from tcaq_core.recipe import CalibrationSpec, Recipe, resolve


@dataclass(frozen=True)
class Row:
    """One stage of one quantization."""

    recipe: str
    weight_bits: int
    activation_bits: int
    stage: str
    seconds: float
    estimated_seconds: float
    iterations_per_second: float | None
    capture_share: float | None
    peak_bytes: int


@dataclass
class PeakMemory:
    """Listens to progress and remembers the most that was held in every stage."""

    device: torch.device
    bytes: dict[str, int] = field(default_factory=dict)
    stage: str | None = None

    def __call__(self, stage: str, _done: int, _total: int) -> None:
        """Close the books of the stage before, once another begins."""
        if stage != self.stage:
            self.close()
            self.stage = stage
            self._reset()

    def close(self) -> None:
        """Read the peak of the stage that has ended."""
        if self.stage is not None:
            self.bytes[self.stage] = self._read()

    def _reset(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            # 5: the high-water mark of the resident set starts again (man 5 proc).
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def _read(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        status = Path("/proc/self/status").read_text(encoding="ascii")
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        if found is None:
            raise RuntimeError("/proc/self/status has no VmHWM")
        return int(found[1]) * 1024


def main() -> None:
    """Measure and print one row per stage."""
    arguments = _parse()
    rows: list[Row] = []
    print(
        f"{'recipe':<12}{'bits':>6} {'stage':<13}{'seconds':>9}{'estimate':>9}", end=""
    )
    print(f"{'iterations/s':>14}{'capture':>9}{'peak MB':>9}", flush=True)
    for weight_bits, activation_bits in arguments.bits:
        for name in arguments.recipes:
            recipe = resolve(
                _method(name, (weight_bits, activation_bits)),
                weight_bits=weight_bits,
                activation_bits=activation_bits,
                calibration=CalibrationSpec(
                    num_samples=arguments.samples, num_steps=arguments.steps
                ),
            )
            found = measure(arguments.model, name, recipe, arguments.device)
            for row in found:
                _print(row)
            rows += found
    rate = calibration_rate(arguments.model, rows, arguments)
    ratio = sum(r.estimated_seconds for r in rows) / sum(r.seconds for r in rows)
    print(
        f"calibration: {rate:.2e} multiplications/s; estimated / measured: {ratio:.2f}"
    )
    if arguments.json:
        document = {
            "benchmark": "quantize",
            "model": arguments.model.name,
            "environment": describe_environment(arguments.device),
            "multiplications_per_second": rate,
            "rows": [asdict(row) for row in rows],
        }
        arguments.json.write_text(json.dumps(document, indent=1), encoding="utf-8")


def measure(model: Path, name: str, recipe: Recipe, device: torch.device) -> list[Row]:
    """Quantize once and return what each stage took."""
    memory = PeakMemory(device)
    rate = MULTIPLICATIONS_PER_SECOND * torch.get_num_threads()
    expected = estimate(model, recipe, rate=rate).stage_seconds
    with tempfile.TemporaryDirectory() as folder:
        result = quantize_folder(
            model, Path(folder) / "out", recipe, device=device, progress=memory
        )
    memory.close()
    return [
        Row(
            recipe=name,
            weight_bits=recipe.weight_bits,
            activation_bits=recipe.activation_bits,
            stage=stage,
            seconds=seconds,
            estimated_seconds=expected[stage],
            **_timing(result.report.get(stage)),
            peak_bytes=memory.bytes[stage],
        )
        for stage, seconds in result.seconds.items()
        if stage in expected  # what follows a quantization is no part of it
    ]


def calibration_rate(
    model: Path, rows: list[Row], arguments: argparse.Namespace
) -> float:
    """Return the multiplications per second of all calibrations together."""
    seconds = [row.seconds for row in rows if row.stage == "calibrate"]
    each = arguments.samples * arguments.steps * read_network(model).multiplications
    return float(each * len(seconds) / sum(seconds))


def _timing(report: object) -> dict[str, float | None]:
    """Read reconstruction's own clock, where a pass has reported one."""
    timing = report.get("timing") if isinstance(report, Mapping) else None
    if timing is None:
        return {"iterations_per_second": None, "capture_share": None}

    def ratio(part: float, whole: float) -> float | None:
        return part / whole if whole > 0 else None

    return {
        "iterations_per_second": ratio(
            timing["iterations"], timing["optimise_seconds"]
        ),
        "capture_share": ratio(timing["capture_seconds"], timing["total_seconds"]),
    }


def _print(row: Row) -> None:
    label = f"W{row.weight_bits}A{row.activation_bits}"
    print(f"{row.recipe:<12}{label:>6} {row.stage:<13}{row.seconds:>9.1f}", end="")
    rate, share = row.iterations_per_second, row.capture_share
    print(f"{row.estimated_seconds:>9.1f}", end="")
    print(f"{'' if rate is None else format(rate, '.1f'):>14}", end="")
    print(f"{'' if share is None else format(share, '.0%'):>9}", end="")
    print(f"{row.peak_bytes / 1e6:>9.0f}", flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=DEMO_MODEL)
    parser.add_argument("--recipes", type=_recipes, default=["tcaq"])
    parser.add_argument("--bits", type=_bits, default=_bits("W4A8"))
    parser.add_argument("--samples", type=int, default=16, help="trajectories")
    parser.add_argument("--steps", type=int, default=20, help="of each trajectory")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--json", type=Path, help="write machine-readable rows here")
    return parser.parse_args()


if __name__ == "__main__":
    main()

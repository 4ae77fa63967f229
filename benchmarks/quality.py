"""How close each recipe keeps a model's pictures, in one run on one machine.

    python -m benchmarks.quality [--quick] [--json FILE]
    python -m benchmarks.quality --model FOLDER --recipes rtn,tcaq --bits W8A8,W4A4
    python -m benchmarks.quality --recipes tcaq,mine.json    # passes of your own
    python -m benchmarks.quality --recipes fit_ranges,+tcr,+daq,+par    # ablation

The ablation rows are the beginnings of `tcaq`: its ranges alone, then with each pass.
Every row quantizes the same model with the same calibration seed and compares with
full precision on the same held-out noise: the PSNR of the final images, and the error
of the predicted noise over held-out full-precision trajectories.
"""

import argparse
import json
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from tcaq_core import checkpoint
from tcaq_core.calibration import CalibrationSet, record_trajectories
from tcaq_core.diffusion import Pipeline, load_pipeline, sample
from tcaq_core.environment import describe_environment
from tcaq_core.evaluation.paired import psnr_db, relative_mse
from tcaq_core.quantization import quantize
from tcaq_core.recipe import PRESETS, CalibrationSpec, Method, Recipe, resolve

DEMO_MODEL = Path(__file__).parents[1] / "models" / "ddpm-cifar10-small"
CPU = torch.device("cpu")
COMPARED = ["rtn", "ptq4dm", "qdiffusion", "tfmq", "tcaq", "fast", "standard", "best"]
# Each row of the paper's ablation has the passes of the row before and its own.
ABLATION = {
    "fit_ranges": ("fit_ranges",),
    "+tcr": ("tcr", "fit_ranges"),
    "+daq": ("tcr", "fit_ranges", "daq"),
    "+par": ("tcr", "fit_ranges", "daq", "par"),
}
# Calibration draws its noise from seed 0 upwards; what is measured never saw it.
HELD_OUT = 1_000_000


@dataclass(frozen=True)
class Row:
    """One recipe at one bit setting; sizes in bytes, times in seconds."""

    recipe: str
    weight_bits: int
    activation_bits: int
    psnr_db: float
    noise_relative_mse: float
    quantize_seconds: float
    checkpoint_bytes: int


@dataclass(frozen=True)
class Reference:
    """What full precision does with the held-out noise."""

    trajectories: CalibrationSet
    eps: Tensor
    images: Tensor


def main() -> None:
    """Measure and print one row per recipe and bit setting."""
    arguments = _parse()
    rows = []
    measured: dict[str, tuple[Row, float]] = {}
    reference = _reference(arguments)
    print(f"{'recipe':<12}{'bits':>6}{'PSNR dB':>9}{'noise error':>13}", end="")
    print(f"{'seconds':>9}{'bytes':>10}{'of float32':>12}")
    for bits in arguments.bits:
        for name in arguments.recipes:
            recipe = resolve(
                _method(name, bits),
                weight_bits=bits[0],
                activation_bits=bits[1],
                softmax_bits=8,
                calibration=CalibrationSpec(seed=arguments.calibration_seed),
            )
            # `+par` is `tcaq` itself: equal recipes are measured once.
            if recipe.digest() not in measured:
                found = _measure(arguments, name, recipe, reference)
                measured[recipe.digest()] = found
            row, ratio = measured[recipe.digest()]
            row = replace(row, recipe=name)
            rows.append(row)
            label = f"W{row.weight_bits}A{row.activation_bits}"
            print(f"{name:<12}{label:>6}{row.psnr_db:>9.2f}", end="")
            print(
                f"{row.noise_relative_mse:>13.2e}{row.quantize_seconds:>9.1f}", end=""
            )
            print(f"{row.checkpoint_bytes:>10}{ratio:>12.4f}", flush=True)
    if arguments.json:
        document = {
            "benchmark": "quality",
            "model": arguments.model.name,
            "num_images": arguments.images,
            "num_steps": arguments.steps,
            "seed": arguments.seed,
            "environment": describe_environment(CPU),
            "rows": [asdict(row) for row in rows],
        }
        arguments.json.write_text(json.dumps(document, indent=1), encoding="utf-8")


def _measure(
    arguments: argparse.Namespace, name: str, recipe: Recipe, reference: Reference
) -> tuple[Row, float]:
    pipeline = load_pipeline(arguments.model, device=CPU)
    start = time.perf_counter()
    result = quantize(pipeline, recipe, progress=lambda *_: None)
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        manifest = checkpoint.save(
            Path(folder),
            pipeline,
            result.denoiser,
            recipe,
            model={"reference": arguments.model.name},
            environment=dict(describe_environment(CPU)),
        )
        size = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())
    row = Row(
        recipe=name,
        weight_bits=recipe.weight_bits,
        activation_bits=recipe.activation_bits,
        psnr_db=psnr_db(
            # A recipe that budgets its steps is sampled with those.
            _images(arguments, pipeline, result.denoiser.recommended_steps),
            reference.images,
        ),
        noise_relative_mse=relative_mse(
            _predict(arguments, pipeline, reference.trajectories), reference.eps
        ),
        quantize_seconds=seconds,
        checkpoint_bytes=size,
    )
    return row, size / manifest.float32_bytes


def _reference(arguments: argparse.Namespace) -> Reference:
    pipeline = load_pipeline(arguments.model, device=CPU)
    spec = CalibrationSpec(
        num_samples=arguments.images, num_steps=min(arguments.steps, 20)
    )
    trajectories = record_trajectories(pipeline, spec, seed=HELD_OUT + arguments.seed)
    return Reference(
        trajectories,
        _predict(arguments, pipeline, trajectories),
        _images(arguments, pipeline),
    )


def _images(
    arguments: argparse.Namespace, pipeline: Pipeline, num_steps: int | None = None
) -> Tensor:
    first = HELD_OUT + arguments.seed
    return sample(
        pipeline,
        seeds=range(first, first + arguments.images),
        num_steps=num_steps or arguments.steps,
    )


@torch.no_grad()
def _predict(
    arguments: argparse.Namespace, pipeline: Pipeline, data: CalibrationSet
) -> Tensor:
    # One sampler step a batch: recipes with a memory between steps need the order.
    batches = data.batches(arguments.images)
    return torch.cat(
        [pipeline.denoiser(b.x_t, b.t, return_dict=False)[0] for b in batches]
    )


def _bits(text: str) -> list[tuple[int, int]]:
    found = [re.fullmatch(r"W(\d+)A(\d+)", item) for item in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError("write bits as W4A8,W4A4")
    return [(int(m[1]), int(m[2])) for m in found if m]


def _method(name: str, bits: tuple[int, int]) -> str | Method:
    if name in PRESETS:
        return name
    if name in ABLATION:
        whole = PRESETS["tcaq"](*bits)
        kept = [item for item in whole.passes if item.kind in ABLATION[name]]
        return Method(passes=tuple(kept), skip=whole.skip)
    return Method.model_validate_json(Path(name).read_text(encoding="utf-8"))


def _recipes(text: str) -> Sequence[str]:
    names = text.split(",")
    known = {*PRESETS, *ABLATION}
    unknown = [n for n in names if n not in known and not n.endswith(".json")]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"unknown {', '.join(unknown)}; there are {', '.join(PRESETS)}, the "
            f"ablation rows {', '.join(ABLATION)}, or a file "
            "FILE.json with passes, skip and overrides"
        )
    return names


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=DEMO_MODEL)
    parser.add_argument("--steps", type=int, help="sampler steps (20; quick: 10)")
    parser.add_argument("--images", type=int, help="held-out images (32; quick: 8)")
    parser.add_argument("--seed", type=int, default=0, help="of the held-out noise")
    parser.add_argument("--calibration-seed", type=int, default=0)
    parser.add_argument("--recipes", type=_recipes)
    parser.add_argument("--bits", type=_bits)
    parser.add_argument("--json", type=Path, help="write machine-readable rows here")
    parser.add_argument("--quick", action="store_true", help="under 5 minutes")
    arguments = parser.parse_args()
    quick = arguments.quick
    arguments.steps = arguments.steps or (10 if quick else 20)
    arguments.images = arguments.images or (8 if quick else 32)
    compared = ["rtn", "tcaq", "best"] if quick else [*COMPARED, *ABLATION]
    arguments.recipes = arguments.recipes or compared
    default = "W4A8" if quick else "W8A8,W4A8,W6A6,W4A4"
    arguments.bits = arguments.bits or _bits(default)
    return arguments


if __name__ == "__main__":
    main()

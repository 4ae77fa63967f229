"""Are integer images the pictures that simulation promises? PSNR of each pair, in dB.

    python -m benchmarks.equality [--model FOLDER] [--recipes rtn,standard]
                                  [--bits W8A8,W4A8]

The same noise through the full-precision model and one checkpoint, executed simulated
and on integers, each in one batch and in batches of three. Float32 sums depend on
their order, and the order on the batch: two simulated runs of one checkpoint differ,
as codes on a tie fall either way. Integer sums do not; the two integer runs are
compared to the last bit. Where `integer/simulated` is as large as `simulated/itself`,
nothing but such ties tells the two executions apart.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.quality import DEMO_MODEL, _bits
from tcaq_core import checkpoint
from tcaq_core.diffusion import Pipeline, load_pipeline, sample
from tcaq_core.evaluation.paired import psnr_db
from tcaq_core.quantization import quantize
from tcaq_core.recipe import CalibrationSpec, resolve
from tcaq_core.runtime.integer import compile_integer

CPU = torch.device("cpu")
SMALL_BATCH = 3


def main() -> None:
    """Print one row per recipe and bit setting."""
    arguments = _parse()
    torch.set_num_threads(arguments.threads)
    full = _images(load_pipeline(arguments.model, device=CPU), arguments)
    print(
        "recipe      bits   simulated/full  integer/full  integer/simulated  "
        "simulated/itself  integer/itself"
    )
    for name in arguments.recipes.split(","):
        for bits in arguments.bits:
            with tempfile.TemporaryDirectory(prefix="tcaq-equality-") as scratch:
                folder = _quantize(arguments, name, bits, Path(scratch) / "checkpoint")
                row = _compare(folder, full, arguments)
            label = f"W{bits[0]}A{bits[1]}"
            print(f"{name:<11} {label:<6} {row}", flush=True)


def _compare(folder: Path, full: Tensor, arguments: argparse.Namespace) -> str:
    loaded = checkpoint.load(folder, device=CPU)
    simulated, again = _twice(loaded.pipeline, arguments)
    execution = compile_integer(loaded.denoiser)
    if execution.kind != "integer":
        return f"no integer execution here: {execution.note}"
    integer, repeated = _twice(loaded.pipeline, arguments)
    same = "equal" if torch.equal(integer, repeated) else _db(repeated, integer)
    pairs = ((simulated, full), (integer, full), (integer, simulated))
    first, second, third = (_db(*pair) for pair in pairs)
    own = _db(again, simulated)
    return f"{first:>14}  {second:>12}  {third:>17}  {own:>16}  {same:>14}"


def _twice(pipeline: Pipeline, arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    whole = _images(pipeline, arguments)
    return whole, _images(pipeline, arguments, batch_size=SMALL_BATCH)


def _images(
    pipeline: Pipeline, arguments: argparse.Namespace, *, batch_size: int | None = None
) -> Tensor:
    return sample(
        pipeline,
        seeds=range(arguments.images),
        num_steps=arguments.steps,
        batch_size=batch_size or arguments.images,
    )


def _quantize(
    arguments: argparse.Namespace, name: str, bits: tuple[int, int], out: Path
) -> Path:
    calibration = CalibrationSpec(num_samples=4, num_steps=arguments.steps, seed=0)
    weight_bits, activation_bits = bits
    recipe = resolve(
        name,
        weight_bits=weight_bits,
        activation_bits=activation_bits,  # type: ignore[arg-type]  # checked at run time
        calibration=calibration,
    )
    pipeline = load_pipeline(arguments.model, device=CPU)
    result = quantize(pipeline, recipe, progress=lambda *_: None)
    checkpoint.save(out, pipeline, result.denoiser, recipe, model={}, environment={})
    return out


def _db(images: Tensor, reference: Tensor) -> str:
    return f"{psnr_db(images, reference):.1f}"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=DEMO_MODEL)
    parser.add_argument("--recipes", default="rtn,fast")
    parser.add_argument("--bits", type=_bits, default=_bits("W8A8,W4A8,W4A4"))
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""``tcaq quantize``: quantize a diffusers folder on this machine, without a server."""

import re
from pathlib import Path
from typing import Annotated, Final, Literal

import torch
import typer
from pydantic import ValidationError

from tcaq_core.command_line import Lines, device_of, refuse
from tcaq_core.errors import OutOfMemory, TCAQError
from tcaq_core.estimate import MULTIPLICATIONS_PER_SECOND, Estimate, estimate
from tcaq_core.folder_job import (
    CHECKPOINT,
    ONNX,
    PICTURE,
    REPORT,
    FolderResult,
    quantize_folder,
)
from tcaq_core.recipe import PRESETS, Method, Recipe

MEGABYTE: Final = 1e6


def quantize(
    model: Annotated[Path, typer.Argument(help="A diffusers pipeline folder.")],
    *,
    out: Annotated[
        Path | None, typer.Option(help="New or empty folder for the result.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="Its name, or a .json file.")
    ] = "standard",
    bits: Annotated[str, typer.Option(help="Weights and activations.")] = "W4A8",
    softmax_bits: Annotated[int, typer.Option(help="4 to 8.")] = 8,
    steps: Annotated[int, typer.Option(help="Of each calibration trajectory.")] = 20,
    samples: Annotated[int, typer.Option(help="Calibration trajectories.")] = 16,
    seed: Annotated[int, typer.Option(help="Everything random follows from it.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    benchmark_seconds: Annotated[
        float, typer.Option(min=0, help="About how long to time the result; 0: not.")
    ] = 10,
    export: Annotated[
        Literal["onnx"] | None, typer.Option(help="A format to write, too.")
    ] = None,
    estimate_only: Annotated[
        bool, typer.Option("--estimate", help="Say what it would take, and stop.")
    ] = False,
) -> None:
    """Quantize a diffusers folder on this machine; progress goes to stderr."""
    resolved = _recipe(
        recipe,
        bits,
        softmax_bits=softmax_bits,
        calibration={"num_steps": steps, "num_samples": samples, "seed": seed},
    )
    if out is None and not estimate_only:
        raise typer.BadParameter("Name a folder for the result.", param_hint="--out")
    try:
        if out is None or estimate_only:
            rate = MULTIPLICATIONS_PER_SECOND * torch.get_num_threads()
            _say_estimate(estimate(model, resolved, rate=rate))
            return
        result = quantize_folder(
            model,
            out,
            resolved,
            device=device_of(device),
            progress=Lines(),
            benchmark_seconds=benchmark_seconds,
            has_onnx=export == "onnx",
        )
    except FileExistsError as error:
        detail = "It exists already, and not as an empty folder."
        raise typer.BadParameter(detail, param_hint="--out") from error
    except TCAQError as error:
        refuse(error)
    except (MemoryError, torch.OutOfMemoryError):
        hint = "Lower --samples, or the recipe's batch_size and num_inputs."
        refuse(OutOfMemory("There is no room for the next step.", hint=hint))
    _say_result(out, result)


def _recipe(
    name: str, bits: str, *, softmax_bits: int, calibration: dict[str, int]
) -> Recipe:
    widths = re.fullmatch(r"W(\d+)A(\d+)", bits)
    if widths is None:
        raise typer.BadParameter("Write it as W4A8.", param_hint="--bits")
    weight_bits, activation_bits = int(widths[1]), int(widths[2])
    try:
        method = _method(name, weight_bits, activation_bits)
        return Recipe.model_validate(
            {
                "weight_bits": weight_bits,
                "activation_bits": activation_bits,
                "softmax_bits": softmax_bits,
                "method": method,
                "calibration": calibration,
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise typer.BadParameter(f"{where}: {first['msg']}") from error


def _method(name: str, weight_bits: int, activation_bits: int) -> Method:
    if name in PRESETS:
        return PRESETS[name](weight_bits, activation_bits)
    if not name.endswith(".json"):
        raise typer.BadParameter(
            f"{name!r} is neither a .json file nor one of {', '.join(PRESETS)}.",
            param_hint="--recipe",
        )
    try:
        return Method.model_validate_json(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise typer.BadParameter(f"{error}", param_hint="--recipe") from error


def _say_estimate(found: Estimate) -> None:
    typer.echo(f"about {found.seconds:.0f} s")
    for stage, seconds in found.stage_seconds.items():
        typer.echo(f"  {stage:<14}{seconds:8.1f} s")
    typer.echo(f"memory        {found.peak_memory_bytes / MEGABYTE:8.1f} MB at most")
    _say_sizes(found.denoiser_bytes, found.float32_bytes)


def _say_result(out: Path, result: FolderResult) -> None:
    for stage, seconds in result.seconds.items():
        typer.echo(f"{stage:<14}{seconds:8.1f} s")
    _say_sizes(result.manifest.denoiser_bytes, result.manifest.float32_bytes)
    typer.echo("verified      bit-equal in a fresh process")
    execution, benchmark = result.measured.execution, result.measured.benchmark
    typer.echo(f"executes      {execution.kind}, {execution.kernels}")
    if benchmark is not None:
        times = (
            f"{v:.2f} x {k.removeprefix('over_')}" for k, v in benchmark.speedup.items()
        )
        typer.echo(f"speed         {', '.join(times)}")
    typer.echo(f"checkpoint    {out / CHECKPOINT}")
    if (out / ONNX).exists():
        typer.echo(f"onnx          {out / ONNX}")
    typer.echo(f"report        {out / REPORT}, {out / PICTURE}")


def _say_sizes(denoiser_bytes: int, float32_bytes: int) -> None:
    ratio = float32_bytes / denoiser_bytes
    typer.echo(f"denoiser      {denoiser_bytes / MEGABYTE:8.2f} MB")
    typer.echo(f"in float32    {float32_bytes / MEGABYTE:8.2f} MB, {ratio:.2f} x")

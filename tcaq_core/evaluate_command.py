"""``tcaq evaluate``: score a checkpoint on this machine, without a server."""

import json
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import torch
import typer
from pydantic import ValidationError

from tcaq_core.command_line import (
    CACHE,
    EVALUATION,
    DataDirectory,
    Directory,
    InceptionWeights,
    Lines,
    Places,
    device_of,
    refuse,
)
from tcaq_core.errors import TCAQError
from tcaq_core.evaluation.extractor_folder import inspect_extractor
from tcaq_core.evaluation.extractors import FeatureNetwork, load_extractor
from tcaq_core.evaluation.plan import EvaluationPlan, resolve_evaluation
from tcaq_core.evaluation.protocols import PROTOCOLS
from tcaq_core.evaluation.record import ExtractorDtype, ScoreRecord
from tcaq_core.evaluation.reference import Reference, load_reference
from tcaq_core.evaluation.reference_file import SUFFIX
from tcaq_core.evaluation.spec import Evaluation
from tcaq_core.folder_evaluation import evaluate_folder, is_checkpoint, load_source


def evaluate(
    checkpoint: Annotated[
        Path, typer.Argument(help="A checkpoint's folder, or a diffusers folder.")
    ],
    *,
    model: Annotated[
        Path | None,
        typer.Option(help="The model it was quantized from, to compare with."),
    ] = None,
    protocol: Annotated[str, typer.Option(help=", ".join(PROTOCOLS))] = "quick",
    metric: Annotated[
        list[str] | None, typer.Option(help="As fid; may be repeated.")
    ] = None,
    extractor: Annotated[
        str | None, typer.Option(help="Another network: its name, file or folder.")
    ] = None,
    extractor_dtype: Annotated[
        ExtractorDtype, typer.Option(help="bfloat16 is faster and moves the score.")
    ] = "float32",
    reference: Annotated[
        str | None, typer.Option(help="Other statistics: their name or file.")
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=2, help="Fewer, or more, than the protocol's.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Others than the protocol's.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Image i has seed + i.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images drawn at once.")] = 50,
    execution: Annotated[
        Literal["auto", "simulated"], typer.Option(help="auto: on integers if it can.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    work: Annotated[
        Path | None,
        typer.Option(help="Keeps what is drawn: called again, it goes on from there."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the full records.")
    ] = False,
    directory: Directory = EVALUATION,
    inception_weights: InceptionWeights = None,
    data_directory: DataDirectory = Path("tcaq-data"),
) -> None:
    """Score a checkpoint on this machine, beside its model if named."""
    folder = _checkpoint_in(checkpoint)
    on = device_of(device)
    asked: dict[str, Any] = {
        "protocol": protocol,
        "metrics": metric or None,
        "extractor": extractor,
        "extractor_dtype": extractor_dtype,
        "reference": reference,
        "num_images": images,
        "num_steps": steps,
        "seed": seed,
        "batch_size": batch_size,
        "baseline": model is not None,
    }
    places = Places(directory, inception_weights, data_directory / CACHE)
    began = time.perf_counter()
    try:
        with ExitStack() as stack:
            scratch = work or Path(stack.enter_context(TemporaryDirectory()))
            plan, network, statistics = _prepare(asked, places, on)
            records = evaluate_folder(
                load_source(folder, device=on, simulate=execution == "simulated"),
                None if model is None else load_source(model, device=on),
                plan,
                extractor=network,
                reference=statistics,
                work=scratch,
                device=on,
                progress=Lines(),
            )
    except TCAQError as error:
        refuse(error)
    _say(folder, plan, records, time.perf_counter() - began, as_json=as_json)


def _prepare(
    values: dict[str, Any], places: Places, device: torch.device
) -> tuple[EvaluationPlan, FeatureNetwork | None, Reference | None]:
    """Return the plan with its network and statistics loaded."""
    network_path = reference_path = None
    named = dict(values)
    if values["extractor"] is not None:
        network_path = places.extractor(values["extractor"])
        named["extractor"] = inspect_extractor(
            network_path, dtype=values["extractor_dtype"]
        ).name
    if values["reference"] is not None:
        reference_path = places.reference(values["reference"])
        named["reference"] = reference_path.name.removesuffix(SUFFIX)
    asked = _evaluation(named)
    network = None
    if asked.network is not None:
        network = load_extractor(
            network_path or places.extractor(asked.network),
            device=device,
            dtype=asked.extractor_dtype,
        )
    statistics = None
    if asked.compared_with is not None:
        statistics = load_reference(
            reference_path or places.reference(asked.compared_with)
        )
    plan = resolve_evaluation(
        asked,
        extractor=None if network is None else network.info,
        reference=None if statistics is None else statistics.used,
    )
    return plan, network, statistics


def _evaluation(values: dict[str, Any]) -> Evaluation:
    try:
        return Evaluation.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        detail = first["msg"].removeprefix("Value error, ")
        raise typer.BadParameter(f"{where}: {detail}" if where else detail) from error


def _checkpoint_in(folder: Path) -> Path:
    """Return the checkpoint's folder; the result of ``tcaq quantize`` holds one."""
    inner = folder / "checkpoint"
    return inner if not is_checkpoint(folder) and is_checkpoint(inner) else folder


def _say(
    folder: Path,
    plan: EvaluationPlan,
    records: tuple[ScoreRecord, ...],
    seconds: float,
    *,
    as_json: bool,
) -> None:
    if as_json:
        document = {
            "checkpoint": str(folder),
            "plan": plan.model_dump(mode="json"),
            "seconds": round(seconds, 3),
            "scores": [record.model_dump(mode="json") for record in records],
        }
        typer.echo(json.dumps(document, indent=2))
        return
    for record in records:
        typer.echo(_line(record))
    # A value without its warning is another value.
    for note in dict.fromkeys(note for record in records for note in record.notes):
        typer.echo(f"note: {note}")
    changed = f", changed: {', '.join(plan.changed)}" if plan.changed else ""
    typer.echo(f"{plan.protocol}{changed}; {plan.num_images} images, {seconds:.0f} s")


def _line(record: ScoreRecord) -> str:
    value = "equal" if record.value is None else f"{record.value:.4g}"
    line = f"{record.label:<28}{value:>10}{_bounds(record.ci95)}"
    if record.baseline is not None:
        line += f"  full precision {record.baseline.value:.4g}"
        line += f", {record.baseline.delta:+.3g}{_bounds(record.baseline.delta_ci95)}"
    return line


def _bounds(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" [{interval[0]:.4g}, {interval[1]:.4g}]"

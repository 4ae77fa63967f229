"""Quantize diffusion models: talk to the service, or run it (`tcaq up`).

Exit codes: 0 done, 1 the service refused, 2 wrong usage, 3 no connection, 4 the job
failed or was cancelled, 130 interrupted.
"""

import json
from importlib.metadata import entry_points
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from tcaq_client import arguments, screen
from tcaq_client.client import DEFAULT_URL, Client
from tcaq_client.mounts import GROUP, mount
from tcaq_client.outcome import EXIT_USAGE, connected
from tcaq_client.sampling import Execution

JobId = Annotated[str, typer.Argument(help="Id of the job, as submit printed it.")]
Url = Annotated[str, typer.Option(envvar="TCAQ_URL", help="The service.")]
Json = Annotated[bool, typer.Option("--json", help="Print the service's JSON.")]

app = typer.Typer(
    name="tcaq",
    help=__doc__,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def _start(context: typer.Context) -> None:
    # Tests hand in a connection with a transport of their own.
    context.obj = context.obj or Client


@app.command()
def submit(
    context: typer.Context,
    *,
    model: Annotated[str, typer.Argument(help="A model's name, or owner/name@commit.")],
    weight_bits: Annotated[int, typer.Option("-w", "--weight-bits", help="2 to 8.")],
    activation_bits: Annotated[
        int, typer.Option("-a", "--activation-bits", help="4 to 8, or 16: not at all.")
    ],
    recipe: Annotated[
        str, typer.Option(help="Its name, or a .json file.")
    ] = "standard",
    softmax_bits: Annotated[int | None, typer.Option(help="4 to 8.")] = None,
    calibration: Annotated[
        list[str] | None, typer.Option(help="As num_samples=32; may be repeated.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="As team=a; may be repeated.")
    ] = None,
    export: Annotated[
        list[str] | None, typer.Option(help="A format to write, too: onnx.")
    ] = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Queue a quantization and print its id."""
    with connected(context.obj, url) as client:
        job = client.submit(
            model,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            recipe=arguments.recipe(recipe),
            softmax_bits=softmax_bits,
            calibration=arguments.numbers(calibration),
            labels=arguments.pairs(label),
            exports=export,
        )
        if as_json:
            _print_json(job.raw)
        else:
            typer.echo(f"{job.id} {job.status}; follow it with: tcaq watch {job.id}")


@app.command()
def jobs(
    context: typer.Context,
    *,
    status: Annotated[str | None, typer.Option(help="Only these.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 20,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    with connected(context.obj, url) as client:
        found = list(
            islice(client.jobs(status=status, page_size=min(limit, 100)), limit)
        )
        if as_json:
            _print_json([job.raw for job in found])
        else:
            screen.console().print(screen.jobs_table(found))


@app.command()
def watch(
    context: typer.Context,
    *,
    job_id: JobId,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Follow a job to its end; --json prints one line per change."""
    with connected(context.obj, url) as client:
        if as_json:
            client.wait(job_id, lambda job: typer.echo(json.dumps(job.raw)))
        else:
            output = screen.console()
            with screen.progress_of(job_id, output) as show:
                job = client.wait(job_id, show)
            for line in screen.result_lines(job):
                output.print(line, markup=False)


@app.command()
def cancel(
    context: typer.Context,
    *,
    job_id: JobId,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Ask a job to stop."""
    with connected(context.obj, url) as client:
        job = client.cancel(job_id)
        if as_json:
            _print_json(job.raw)
        else:
            typer.echo(f"{job.id} {job.status}")


@app.command()
def download(
    context: typer.Context,
    *,
    job_id: JobId,
    folder: Annotated[
        Path | None, typer.Argument(help="New folder; default: the job's id.")
    ] = None,
    onnx: Annotated[
        bool, typer.Option(help="Fetch the ONNX file instead, into a new file.")
    ] = False,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Fetch a job's checkpoint, verify it, and unpack it into a new folder."""
    target = folder or Path(f"{job_id}.onnx" if onnx else job_id)
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    output = screen.console()
    with (
        connected(context.obj, url) as client,
        Progress(*columns, console=output, disable=not output.is_terminal) as bar,
    ):
        task = bar.add_task("onnx" if onnx else "checkpoint", total=None)
        fetch = client.download_onnx if onnx else client.download
        path = fetch(
            job_id,
            target,
            on_bytes=lambda arrived, total: bar.update(
                task, completed=arrived, total=total
            ),
        )
    if as_json:
        _print_json({"job_id": job_id, "file" if onnx else "folder": str(path)})
    else:
        typer.echo(str(path))


@app.command()
def sample(
    context: typer.Context,
    *,
    target: Annotated[
        str, typer.Argument(help="A job's id, a checkpoint's SHA-256, or a model.")
    ],
    n: Annotated[int, typer.Option("-n", min=1, help="How many images.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of the first image.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Of the sampler.")] = 50,
    eta: Annotated[float, typer.Option(min=0, max=1, help="DDIM's eta.")] = 0.0,
    compare_to: Annotated[
        Literal["baseline"] | None,
        typer.Option(help="Draw the full-precision images above, from the same noise."),
    ] = None,
    execution: Annotated[
        Execution, typer.Option(help="Of a checkpoint; auto: on integers if it can.")
    ] = "auto",
    out: Annotated[Path, typer.Option(help="The PNG file.")] = Path("samples.png"),
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Draw images and save them in one picture."""
    with connected(context.obj, url) as client:
        drawn = client.sample(
            target,
            n=n,
            seed=seed,
            steps=steps,
            eta=eta,
            compare_to=compare_to,
            execution=execution,
        )
        _write(out, client.image(drawn.grid))
        if as_json:
            _print_json(drawn.raw)
            return
        typer.echo(f"{out}: {screen.sample_text(drawn)}")


@app.command()
def models(
    context: typer.Context,
    *,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """List the models that the service has."""
    with connected(context.obj, url) as client:
        found = client.models()
        if as_json:
            _print_json([model.raw for model in found])
        else:
            screen.console().print(screen.models_table(found))


@app.command()
def recipes(
    context: typer.Context,
    *,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """List the recipes that have a name."""
    with connected(context.obj, url) as client:
        found = client.recipes()
        if as_json:
            _print_json([preset.raw for preset in found])
        else:
            screen.console().print(screen.presets_table(found))


def main() -> None:
    """Run the command `tcaq`."""
    app()


def _print_json(document: object) -> None:
    typer.echo(json.dumps(document, indent=2))


def _write(path: Path, content: bytes) -> None:
    """Write a file that appears complete or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


mount(app, entry_points(group=GROUP), missing_exit_code=EXIT_USAGE)


if __name__ == "__main__":
    main()

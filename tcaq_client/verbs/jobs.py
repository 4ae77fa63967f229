"""Verbs about jobs: jobs, watch, cancel, download, pareto."""

import json
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from tcaq_client import score_screen, screen
from tcaq_client.client import DEFAULT_URL
from tcaq_client.outcome import connected
from tcaq_client.verbs import options
from tcaq_client.verbs.files import write


def jobs(
    context: typer.Context,
    *,
    kind: Annotated[
        Literal["quantize", "evaluate", "sweep"] | None,
        typer.Option(help="Only these."),
    ] = None,
    status: Annotated[str | None, typer.Option(help="Only these.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 20,
    url: options.Url = DEFAULT_URL,
    as_json: options.Json = False,
) -> None:
    """List jobs, newest first."""
    with connected(context.obj, url) as client:
        page_size = min(limit, 100)
        listed = client.jobs(kind=kind, status=status, page_size=page_size)
        found = list(islice(listed, limit))
        if as_json:
            options.print_json([job.raw for job in found])
        else:
            screen.console().print(screen.jobs_table(found))


def watch(
    context: typer.Context,
    *,
    job_id: options.JobId,
    url: options.Url = DEFAULT_URL,
    as_json: options.Json = False,
) -> None:
    """Follow a job to its end; --json prints one line per change."""
    with connected(context.obj, url) as client:
        if as_json:
            client.wait(job_id, lambda job: typer.echo(json.dumps(job.raw)))
        else:
            output = screen.console()
            with screen.progress_of(job_id, output) as show:
                job = client.wait(job_id, show)
            for line in (*screen.result_lines(job), *score_screen.score_lines(job)):
                output.print(line, markup=False)
            if job.points:
                output.print(score_screen.points_table(job.points))


def cancel(
    context: typer.Context,
    *,
    job_id: options.JobId,
    url: options.Url = DEFAULT_URL,
    as_json: options.Json = False,
) -> None:
    """Ask a job to stop."""
    with connected(context.obj, url) as client:
        job = client.cancel(job_id)
        if as_json:
            options.print_json(job.raw)
        else:
            typer.echo(f"{job.id} {job.status}")


def download(
    context: typer.Context,
    *,
    job_id: options.JobId,
    folder: Annotated[
        Path | None, typer.Argument(help="New folder; default: the job's id.")
    ] = None,
    onnx: Annotated[
        bool, typer.Option(help="Fetch the ONNX file instead, into a new file.")
    ] = False,
    url: options.Url = DEFAULT_URL,
    as_json: options.Json = False,
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
        options.print_json({"job_id": job_id, "file" if onnx else "folder": str(path)})
    else:
        typer.echo(str(path))


def pareto(
    context: typer.Context,
    *,
    job_id: options.JobId,
    out: Annotated[Path, typer.Option(help="The PNG file.")] = Path("pareto.png"),
    url: options.Url = DEFAULT_URL,
    as_json: options.Json = False,
) -> None:
    """Show a finished sweep's points and save their picture."""
    with connected(context.obj, url) as client:
        job = client.job(job_id)
        write(out, client.pareto_picture(job_id))
        if as_json:
            options.print_json([point.raw for point in job.points])
            return
        screen.console().print(score_screen.points_table(job.points))
        typer.echo(str(out))

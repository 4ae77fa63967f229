"""What the command line shows: tables, the progress of a job, readable errors."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC
from itertools import pairwise
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from tcaq_client.catalog import Model, Preset
from tcaq_client.errors import ClientError, FieldError, JobFailed, Problem
from tcaq_client.images import Sample
from tcaq_client.results import Job

PLAIN_WIDTH: Final = 160
"""Columns of a table that goes into a file or a pipe."""
PLAIN_STEP_PERCENT: Final = 5.0


def console() -> Console:
    """Return the standard output; without a terminal, wide enough for whole rows."""
    screen = Console(highlight=False)
    return screen if screen.is_terminal else Console(width=PLAIN_WIDTH, highlight=False)


@contextmanager
def progress_of(job_id: str, screen: Console) -> Iterator[Callable[[Job], None]]:
    """Yield what `Client.wait` calls: a live bar, or plain lines without a terminal."""
    if not screen.is_terminal:
        yield _PlainLines(screen)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn("{task.percentage:>5.1f} %"),
        TextColumn("{task.fields[eta]}"),
    )
    with Progress(*columns, console=screen) as bar:
        task = bar.add_task(job_id, total=100, eta="")

        def show(job: Job) -> None:
            bar.update(
                task,
                description=_safe(stage_text(job)),
                completed=job.progress.percent,
                eta=eta_text(job),
            )

        yield show


class _PlainLines:
    """One line per new status or stage and per few percent."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._last: tuple[str, str | None] | None = None
        self._percent = 0.0

    def __call__(self, job: Job) -> None:
        state = (job.status, job.progress.stage)
        percent = job.progress.percent
        if state == self._last and percent < self._percent + PLAIN_STEP_PERCENT:
            return
        self._last, self._percent = state, percent
        line = f"{percent:5.1f} %  {stage_text(job)}  {eta_text(job)}"
        self._screen.print(Text(line.rstrip()))


def stage_text(job: Job) -> str:
    """Return where the job is, as ``daq 4/7, 17/38 blocks``."""
    progress = job.progress
    # One that was given back still names the stage where it was.
    if job.status not in {"running", "cancelling"} or progress.stage is None:
        return job.status
    text = progress.stage
    if progress.stage_index is not None and progress.stage_count is not None:
        text += f" {progress.stage_index + 1}/{progress.stage_count}"
    if progress.total:
        text += f", {progress.done}/{progress.total} {progress.unit or ''}".rstrip()
    return text if job.status == "running" else f"{job.status}: {text}"


def eta_text(job: Job) -> str:
    """Return how long it will take, or nothing while that is not known."""
    eta = job.progress.eta_seconds
    if eta is None or job.is_terminal:
        return ""
    return f"about {duration_text(eta)} left"


def result_lines(job: Job) -> list[str]:
    """Return what a finished job's target executes on, and how fast; or nothing."""
    result = job.result or {}
    # Null where the worker could not find out.
    if result.get("execution") is None:
        return []
    details = result.get("execution_details")
    # A model in full precision has none.
    kernels = f" ({details['kernels']})" if details else ""
    lines = [f"runs {result['execution']}{kernels} on its worker"]
    if job.speedup:
        times = (
            f"{factor:.2f} x {name.removeprefix('over_')}"
            for name, factor in job.speedup.items()
        )
        lines.append(f"speed: {', '.join(times)}")
    return lines


def sample_text(sample: Sample) -> str:
    """Return what was drawn as ``2 images, integer (onednn-int8), 0.25 s each``."""
    kernels = "" if sample.kernels is None else f" ({sample.kernels})"
    text = f"{len(sample.images)} images, {sample.execution}{kernels}"
    text += f", {sample.seconds_per_image:.2f} s each"
    return text if sample.psnr_db is None else f"{text}, PSNR {sample.psnr_db:.2f} dB"


def duration_text(seconds: float) -> str:
    """Return ``42 s``, ``3 min 20 s`` or ``2 h 5 min``."""
    whole = round(seconds)
    parts = [
        (whole // 3600, "h"),
        (whole % 3600 // 60, "min"),
        (whole % 60, "s"),
    ]
    for (large, large_unit), (small, small_unit) in pairwise(parts):
        if large:
            return f"{large} {large_unit} {small} {small_unit}"
    return f"{whole} s"


def jobs_table(jobs: Iterable[Job]) -> Table:
    """Return one row per job."""
    rows = []
    for job in jobs:
        bits = job.recipe or {}
        widths = f"W{bits.get('weight_bits')}A{bits.get('activation_bits')}"
        created = job.created_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M")
        percent = f"{job.progress.percent:.0f} %"
        rows.append(
            (
                job.id,
                job.kind,
                job.model,
                widths if bits else "",
                stage_text(job),
                percent,
                created,
            )
        )
    header = ("id", "kind", "model", "bits", "state", "done", "created (UTC)")
    return table(header, rows)


def models_table(models: Iterable[Model]) -> Table:
    """Return one row per model folder."""
    rows = [
        (
            model.name,
            f"{model.num_parameters:,}" if model.num_parameters else "",
            f"{model.sample_size} px" if model.sample_size else "",
            "yes" if model.is_usable else model.reason,
        )
        for model in models
    ]
    return table(("model", "parameters", "images", "usable"), rows)


def presets_table(presets: Iterable[Preset]) -> Table:
    """Return one row per named recipe."""
    rows = [(p.name, ", ".join(p.passes), p.description) for p in presets]
    return table(("recipe", "passes", "what it is"), rows)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table whose first column is never cut: it is what the user copies."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(header):
        grid.add_column(name, no_wrap=index == 0, overflow="fold")
    for row in rows:
        # Text, because a service's words are not our markup.
        grid.add_row(*(Text(cell) for cell in row))
    return grid


def error_text(error: ClientError) -> str:
    """Return an error as a person reads it: what, which field, what to do."""
    lines = [f"error: {error.detail}"]
    if isinstance(error, Problem):
        lines[0] += f" ({error.status} {error.code})"
        lines += [f"  {_field_text(field)}" for field in error.errors]
    if isinstance(error, JobFailed) and error.failure is not None:
        what = f"{error.job_id} {error.status}"
        lines[0] = f"error: {what}: {error.detail} ({error.failure.code})"
    if error.hint:
        lines.append(f"  hint: {error.hint}")
    if isinstance(error, Problem) and error.request_id:
        lines.append(f"  request: {error.request_id}")
    return "\n".join(map(_printable, lines))


def _field_text(field: FieldError) -> str:
    text = f"{field.where}: {field.detail}"
    match field.allowed:
        case None:
            return text
        case list():
            return f"{text} (allowed: {', '.join(map(str, field.allowed))})"
        case _:
            return f"{text} (allowed: {field.allowed})"


def _safe(text: str) -> str:
    return text.replace("[", r"\[")


def _printable(text: str) -> str:
    """Drop what would steer the terminal: the text comes from the network."""
    return "".join(c for c in text if c.isprintable())

"""What the command line shows of evaluations: scores, a sweep's points, protocols."""

from collections.abc import Iterable

from rich.table import Table

from tcaq_client.catalog import Protocol
from tcaq_client.results import Job
from tcaq_client.scores import Interval, Score, SweepPoint
from tcaq_client.screen import table


def score_lines(job: Job) -> list[str]:
    """Return what a job's evaluation measured, one line per metric; or nothing."""
    lines = []
    if job.scores:
        lines.append(_circumstances(job.scores[0]))
    for score in job.scores:
        lines.append(score_text(score))
        lines += [f"  note: {note}" for note in score.notes]
    guards = (job.result or {}).get("guards")
    if guards:
        kept = "kept" if guards["satisfied"] else "not kept"
        lines.append(f"guards: {kept}, checked {len(guards['rounds'])} times")
    return lines


def score_text(score: Score) -> str:
    """Return ``FID 4.79 [4.71, 4.88], full precision 4.22, delta +0.57 [...]``."""
    text = f"{score.label} {_value(score.value)}{_interval(score.ci95)}"
    if score.baseline is None or score.delta is None:
        return text
    delta = f"{score.delta:+.4g}{_interval(score.delta_ci95)}"
    return f"{text}, full precision {_value(score.baseline)}, delta {delta}"


def points_table(points: Iterable[SweepPoint]) -> Table:
    """Return one row per point, in the order of the sweep."""
    rows = [
        (
            f"W{point.weight_bits}A{point.activation_bits}S{point.softmax_bits}",
            point.recipe,
            f"{point.num_bytes:,}",
            "" if point.ms_per_image is None else f"{point.ms_per_image:.1f}",
            "" if point.score is None else f"{point.score:.4g} {point.score_label}",
            "yes" if point.is_on_front else "",
            point.checkpoint_sha256,
        )
        for point in points
    ]
    header = ("bits", "recipe", "bytes", "ms/image", "score", "on front", "checkpoint")
    return table(header, rows)


def protocols_table(protocols: Iterable[Protocol]) -> Table:
    """Return one row per protocol, with what would make an unusable one usable."""
    rows = [
        (
            protocol.name,
            f"{protocol.num_images:,}",
            "yes" if protocol.is_usable else f"{protocol.reason} {protocol.hint}",
            protocol.description,
        )
        for protocol in protocols
    ]
    return table(("protocol", "images", "usable", "what it is"), rows)


def _circumstances(score: Score) -> str:
    text = f"{score.protocol}: {score.num_images:,} images, {score.execution}"
    return f"{text}; changed: {', '.join(score.changed)}" if score.changed else text


def _value(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.4g}"


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f" [{interval[0]:.4g}, {interval[1]:.4g}]"

"""A sweep's picture: size and time against score, and who is on the front."""

import io
from collections.abc import Mapping
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tcaq_core.evaluation.pareto import HIGHER_IS_BETTER
from tcaq_core.evaluation.protocols import Metric

MEGABYTE: Final = 1e6
# Told apart without colours, too.
MARKERS: Final = "osD^vP*X"
AXES: Final = {"bytes": "denoiser, MB", "ms_per_image": "ms per image"}


def plot(table: Mapping[str, Any], *, metric: Metric) -> bytes:
    """Return a PNG: the score over bytes and, where it was timed, over milliseconds.

    Points on the front are filled, each named by its bits; the bars are 95 %
    intervals; the dashed line is full precision.
    """
    figure = Figure(figsize=(11, 4.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    better = "higher" if metric in HIGHER_IS_BETTER else "lower"
    for axes, (key, label) in zip(
        figure.subplots(1, 2, sharey=True), AXES.items(), strict=True
    ):
        _draw(axes, table, key)
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
        # Room for the names of the points at the edge.
        axes.margins(x=0.15)
    figure.axes[0].set_ylabel(f"{table['score_label']} ({better} is better)")
    figure.axes[0].legend(title="filled: on the front", fontsize=8)
    buffer = io.BytesIO()
    # Without the program's name and version: the same table, the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw(axes: Axes, table: Mapping[str, Any], key: str) -> None:
    recipes = list(dict.fromkeys(point["recipe"] for point in table["points"]))
    unit = MEGABYTE if key == "bytes" else 1.0
    for number, recipe in enumerate(recipes):
        colour = f"C{number}"
        marker = MARKERS[number % len(MARKERS)]
        axes.plot([], [], marker, color=colour, label=recipe)
        for point in table["points"]:
            if point["recipe"] != recipe or None in {point[key], point["score"]}:
                continue
            x, y = point[key] / unit, point["score"]
            interval = point["score_ci95"]
            bars = None if interval is None else [[y - interval[0]], [interval[1] - y]]
            axes.errorbar(
                x,
                y,
                yerr=bars,
                fmt=marker,
                color=colour,
                markerfacecolor=colour if point["on_front"] else "white",
                capsize=3,
                linewidth=0.8,
            )
            bits = f"W{point['weight_bits']}A{point['activation_bits']}"
            axes.annotate(
                bits, (x, y), textcoords="offset points", xytext=(6, 5), fontsize=8
            )
    for score in table["baseline"]["scores"]:
        if score["metric"] == table["metric"]:
            axes.axhline(
                score["value"],
                linestyle="--",
                color="grey",
                linewidth=1,
                label="full precision",
            )

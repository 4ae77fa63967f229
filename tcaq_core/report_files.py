"""A finished quantization's report as the two files that people are given."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tcaq_core.heat_map import heat_map
from tcaq_core.json_safe import json_safe
from tcaq_core.recipe import Recipe
from tcaq_core.report import LayerReport


@dataclass(frozen=True)
class ReportFiles:
    """What each pass reported, and the layers as a picture."""

    document: bytes
    """JSON: ``layers`` is a `LayerReport`, ``execution``, ``benchmark`` and ``exports``
    say what came of it, every other key is a pass."""
    picture: bytes
    """PNG."""


def report_files(
    report: Mapping[str, Any], recipe: Recipe, *, model: str
) -> ReportFiles:
    """Return the files; what is no finite number becomes null."""
    bits = f"W{recipe.weight_bits}A{recipe.activation_bits}"
    layers = LayerReport.model_validate(report["layers"])
    text = json.dumps(json_safe(report), allow_nan=False, separators=(",", ":"))
    return ReportFiles(
        document=f"{text}\n".encode(), picture=heat_map(layers, title=f"{model} {bits}")
    )

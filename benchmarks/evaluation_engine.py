"""What the engines of the evaluation benchmark have in common."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Statistics = Mapping[str, Any]
"""What an engine keeps of a reference: ``mu`` and ``sigma``, or its own."""


class EngineUnavailable(RuntimeError):
    """An engine cannot run here; the message says why and what would help."""


@dataclass(frozen=True)
class Engine:
    """A feature network that is ready for images."""

    name: str
    extract: Callable[[Tensor], Tensor]
    """Takes uint8 images (N, H, W, 3), returns float32 features (N, 2048)."""
    note: str
    """What really runs."""

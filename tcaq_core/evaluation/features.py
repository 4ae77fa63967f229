"""What an extractor gives for images: the one currency of every metric."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float, UInt8
from torch import Tensor

from tcaq_core.evaluation.record import ExtractorInfo


@dataclass(frozen=True)
class Features:
    """Float32 on the CPU, whatever the extractor computed in."""

    pooled: Float[Tensor, "N F"]
    """FID, KID, precision, recall, feature distance."""
    spatial: Float[Tensor, "N S"] | None
    """sFID; None: the network has none."""
    logits: Float[Tensor, "N K"] | None
    """IS; None: the network has none."""


@runtime_checkable
class Extractor(Protocol):
    """A network that turns uint8 images into features."""

    @property
    def info(self) -> ExtractorInfo:
        """Which network it is, and how images are shown to it."""
        ...

    def __call__(self, images: UInt8[Tensor, "N H W C"]) -> Features:
        """Return the features of images; gray ones (C = 1) are shown as colour.

        Raises:
            EvaluationFailed: a size that the network does not take, or features that
                are not finite.
        """
        ...

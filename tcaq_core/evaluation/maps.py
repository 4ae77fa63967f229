"""What a feature network computes, in the order in which it does."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Maps:
    """On the network's device and in its type; `Features` are made of them."""

    spatial: Float[Tensor, "N S"]
    """Of a middle layer, flattened in the order height, width, channel."""
    pooled: Float[Tensor, "N F"]
    """The mean of the last maps over their pixels."""
    logits: Float[Tensor, "N K"]

"""What reconstruction learns: roundings of weights, scales of activation grids."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from tcaq_core.functional import (
    AffineParams,
    dequantize,
    inverse_rectified_sigmoid,
    quantize,
    rectified_sigmoid,
)

Rounding = dict[str, Tensor]
"""A block's rounding variables V by layer name, carried from round to round."""


class AdaRound(nn.Module):
    """Learned rounding of one weight (2004.10568): V decides up or down, softly."""

    def __init__(
        self,
        weight: Float[Tensor, "*W"],
        params: AffineParams,
        *,
        num_bits: int,
    ) -> None:
        super().__init__()
        self.params = params
        self.top = 2**num_bits - 1
        position = weight * params.scale.reciprocal()
        floor = torch.floor(position)
        self.base: Float[Tensor, "*W"] = floor + params.zero_point
        fraction = (position - floor).clamp(1e-4, 1 - 1e-4)
        self.v = nn.Parameter(inverse_rectified_sigmoid(fraction))

    def soft_rounding(self) -> Float[Tensor, "*W"]:
        """Return h(V), between 0 (down) and 1 (up)."""
        return rectified_sigmoid(self.v)

    def soft_weight(self) -> Float[Tensor, "*W"]:
        """Return the weight with soft rounding, differentiable in V."""
        codes = (self.base + self.soft_rounding()).clamp(0, self.top)
        return dequantize(codes, self.params)

    @torch.no_grad()
    def codes(self) -> UInt8[Tensor, "*W"]:
        """Return the codes with every rounding decided."""
        return (self.base + (self.v >= 0)).clamp(0, self.top).to(torch.uint8)

    @torch.no_grad()
    def reopen(self, v: Float[Tensor, "*W"]) -> None:
        """Start from earlier rounding variables, moved back from the flat ends of h.

        Where h is clipped its gradient is zero, and a decision of an earlier round
        could never be revised.
        """
        self.v.copy_(v.clamp(-2.0, 2.0))


def nearest_codes(
    weight: Float[Tensor, "*W"], params: AffineParams, *, num_bits: int
) -> UInt8[Tensor, "*W"]:
    """Return the codes of a weight rounded to nearest."""
    return quantize(weight, params, num_bits=num_bits).to(torch.uint8)


class RangeLearning(nn.Module):
    """What reconstruction adds to a grid while it learns: LSQ scales, QDrop's drops."""

    def __init__(
        self,
        start: Float[Tensor, "R P"],
        *,
        drop: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.log_factor = nn.Parameter(torch.zeros_like(start))
        """Learned: the logarithm of each scale over the scale it started from."""
        self.share = drop
        self.generator = generator

    def scale(self, start: Float[Tensor, "R"], part: int) -> Float[Tensor, "R"]:
        """Return the scales of one part, differentiable."""
        return start * self.log_factor[:, part].exp()

    def drop(
        self, x: Float[Tensor, "*S"], x_hat: Float[Tensor, "*S"]
    ) -> Float[Tensor, "*S"]:
        """Return x_hat with a random share of its elements left as they were."""
        if self.share == 0.0:
            return x_hat
        # One byte an element: 1/256 is fine enough for a probability.
        draw = torch.empty(x.shape, dtype=torch.uint8).random_(
            0, 256, generator=self.generator
        )
        return torch.where((draw < self.share * 256).to(x.device), x, x_hat)

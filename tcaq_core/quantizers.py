"""Grids with parameters: each is fitted by a visible call and refuses before it.

An inactive quantizer hands its input on unchanged. It still runs, so whoever
calibrates can watch exactly the tensor that it would quantize.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Num, UInt8
from torch import Tensor, nn

from tcaq_core.functional import (
    AffineParams,
    affine_params,
    dequantize,
    fake_quantize_log2,
    fake_quantize_tensor,
    inverse_rectified_sigmoid,
    quantize,
    rectified_sigmoid,
    straight_through,
)
from tcaq_core.timesteps import TimestepCursor, TimestepGroups

Grid = Literal["uniform", "log2"]


class NotCalibrated(RuntimeError):
    """A quantizer ran before it was fitted: a bug of the caller, never of the user."""


class UniformQuantizer(nn.Module):
    """One asymmetric grid for a whole activation tensor."""

    scale: Float[Tensor, "*Q"]
    zero_point: Float[Tensor, "*Q"]

    def __init__(self, num_bits: int) -> None:
        super().__init__()
        self.num_bits = num_bits
        self.register_buffer("scale", torch.full((), torch.nan))
        self.register_buffer("zero_point", torch.zeros(()))
        self.is_fitted = False
        self.is_active = False

    def fit(self, low: Float[Tensor, ""], high: Float[Tensor, ""]) -> None:
        """Set the grid that covers [low, high]."""
        params = affine_params(low, high, num_bits=self.num_bits)
        self.load(params.scale, params.zero_point)

    def load(self, scale: Float[Tensor, ""], zero_point: Num[Tensor, ""]) -> None:
        """Set the grid itself, as a checkpoint holds it."""
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)
        self.is_fitted = True
        self.is_active = True

    def forward(self, x: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """Return x on the grid; gradients pass straight through inside the range."""
        if not self.is_active:
            return x
        if not self.is_fitted:
            raise NotCalibrated("an activation quantizer has no range yet")
        return fake_quantize_tensor(
            x, self.scale, self.zero_point, num_bits=self.num_bits
        )


class SoftmaxQuantizer(nn.Module):
    """The grid of a post-softmax map: uniform or log2, one choice a timestep group."""

    scale: Float[Tensor, "G"]
    is_log2: Bool[Tensor, "G"]

    def __init__(
        self, num_bits: int, *, cursor: TimestepCursor, num_timesteps: int
    ) -> None:
        super().__init__()
        self.num_bits = num_bits
        self.cursor = cursor
        self.num_timesteps = num_timesteps
        self.register_buffer("scale", torch.full((1,), torch.nan))
        self.register_buffer("is_log2", torch.zeros(1, dtype=torch.bool))
        self.is_fitted = False
        self.is_active = False

    @property
    def groups(self) -> TimestepGroups:
        """The partition of timesteps that the choices refer to."""
        return TimestepGroups(self.num_timesteps, self.scale.numel())

    def fit(self, peak: Float[Tensor, "G"], is_log2: Bool[Tensor, "G"]) -> None:
        """Set each group's largest value and kind of grid."""
        uniform = grid_scale(peak, "uniform", num_bits=self.num_bits)
        log2 = grid_scale(peak, "log2", num_bits=self.num_bits)
        self.load(torch.where(is_log2, log2, uniform), is_log2)

    def load(self, scale: Float[Tensor, "G"], is_log2: Bool[Tensor, "G"]) -> None:
        """Set the grids themselves, as a checkpoint holds them."""
        self.register_buffer("scale", scale.to(self.scale.device).clone())
        self.register_buffer("is_log2", is_log2.to(self.is_log2.device).clone())
        self.is_fitted = True
        self.is_active = True

    def forward(self, a: Float[Tensor, "N *S"]) -> Float[Tensor, "N *S"]:
        """Return the attention map on its grid; a is in [0, 1], N leads."""
        if not self.is_active:
            return a
        if not self.is_fitted:
            raise NotCalibrated("a softmax quantizer has no range yet")
        group = self.groups.of(self.cursor.t)
        first = int(group[0])
        if bool((group == first).all()):
            return self._on_grid(a, first)
        return self._mixed(a, group)

    def _on_grid(self, a: Float[Tensor, "N *S"], g: int) -> Float[Tensor, "N *S"]:
        grid: Grid = "log2" if bool(self.is_log2[g]) else "uniform"
        return softmax_grid(a, self.scale[g], grid, num_bits=self.num_bits)

    def _mixed(
        self, a: Float[Tensor, "N *S"], group: Int[Tensor, "N"]
    ) -> Float[Tensor, "N *S"]:
        parts = torch.empty_like(a)
        for g in group.unique().tolist():
            at = group == g
            parts = parts.index_put((at,), self._on_grid(a[at], g))
        return parts


class AdaRound(nn.Module):
    """Learned rounding of one weight (2004.10568): V decides up or down, softly."""

    def __init__(
        self, weight: Float[Tensor, "*W"], params: AffineParams, *, num_bits: int
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


def softmax_grid(
    a: Float[Tensor, "*S"], scale: Float[Tensor, ""], grid: Grid, *, num_bits: int
) -> Float[Tensor, "*S"]:
    """Return a map on one grid; scale is the step (uniform) or the peak (log2)."""
    match grid:
        case "uniform":
            zero = torch.zeros_like(scale)
            return fake_quantize_tensor(a, scale, zero, num_bits=num_bits)
        case "log2":
            return straight_through(a, fake_quantize_log2(a, scale, num_bits=num_bits))


def grid_scale(peak: Tensor, grid: Grid, *, num_bits: int) -> Tensor:
    """Return the scale with which a grid's largest value is `peak`."""
    peak = peak.clamp(min=torch.finfo(torch.float32).tiny * 2**24)
    return peak if grid == "log2" else peak / (2**num_bits - 1)

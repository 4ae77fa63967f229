"""Grids with parameters: each is fitted by a visible call and refuses before it.

An inactive quantizer hands its input on unchanged. It still runs, so whoever
calibrates can watch exactly the tensor that it would quantize.
"""

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from tcaq_core.functional import (
    affine_params,
    fake_quantize_learnable,
    fake_quantize_log,
    fake_quantize_samples,
    fake_quantize_tensor,
    straight_through,
)
from tcaq_core.learned import RangeLearning
from tcaq_core.timesteps import TimestepCursor, TimestepGroups


class NotCalibrated(RuntimeError):
    """A quantizer ran before it was fitted: a bug of the caller, never of the user."""


class UniformQuantizer(nn.Module):
    """The asymmetric grids of an activation tensor.

    `scale` and `zero_point` are tables: a row per set of timesteps (one row: the same
    grid always), a column per part of the channel dimension (one column: the whole
    tensor). Every grid covers a whole tensor slice, as integer kernels need it.
    """

    scale: Float[Tensor, "R P"]
    zero_point: Float[Tensor, "R P"]
    row_of_step: Int[Tensor, "T"] | None

    def __init__(self, num_bits: int, *, cursor: TimestepCursor) -> None:
        super().__init__()
        self.num_bits = num_bits
        self.cursor = cursor
        self.parts: tuple[int, ...] = ()
        """Channels of each part; empty: one part, whatever its size."""
        self.register_buffer("scale", torch.full((1, 1), torch.nan))
        self.register_buffer("zero_point", torch.zeros(1, 1))
        self.register_buffer("row_of_step", None)
        self.learning: RangeLearning | None = None
        self.is_fitted = False
        self.is_active = False

    def fit(
        self,
        low: Float[Tensor, "R P"],
        high: Float[Tensor, "R P"],
        *,
        row_of_step: Int[Tensor, "T"] | None = None,
    ) -> None:
        """Set the grids that cover [low, high]; see `load` for the rows."""
        params = affine_params(low, high, num_bits=self.num_bits)
        self.load(params.scale, params.zero_point, row_of_step=row_of_step)

    def load(
        self,
        scale: Float[Tensor, "R P"],
        zero_point: Num[Tensor, "R P"],
        *,
        row_of_step: Num[Tensor, "T"] | None = None,
    ) -> None:
        """Set the grids themselves, as a checkpoint holds them.

        With several rows, row i belongs to the cursor's sampler step i, unless
        `row_of_step` says otherwise.

        Raises:
            ValueError: tables of another shape than the parts need.
        """
        columns = max(1, len(self.parts))
        if scale.ndim != 2 or scale.shape[1] != columns:
            raise ValueError(f"grids {tuple(scale.shape)} for {columns} parts")
        if scale.shape != zero_point.shape:
            raise ValueError("a zero point for every scale")
        device = self.scale.device
        self.scale = scale.to(device).clone()
        self.zero_point = zero_point.to(device, torch.float32)
        if row_of_step is not None:
            row_of_step = row_of_step.to(device, torch.int64)
        self.row_of_step = row_of_step
        self.is_fitted = True
        self.is_active = True

    def forward(self, x: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """Return x on its grids; gradients pass straight through inside the range.

        With several rows the first dimension of x is the batch; with several parts
        the second is the channel.
        """
        if not self.is_active:
            return x
        if not self.is_fitted:
            raise NotCalibrated("an activation quantizer has no range yet")
        if len(self.parts) < 2:
            x_hat = self._on_grid(x, 0)
        else:
            pieces = enumerate(x.split(self.parts, dim=1))
            x_hat = torch.cat([self._on_grid(piece, p) for p, piece in pieces], dim=1)
        return x_hat if self.learning is None else self.learning.drop(x, x_hat)

    def rows(self) -> Int[Tensor, "N"]:
        """Return the row of every sample of the current batch."""
        step = self.cursor.step
        return step if self.row_of_step is None else self.row_of_step[step]

    def _on_grid(self, x: Float[Tensor, "*S"], part: int) -> Float[Tensor, "*S"]:
        scale, zero_point = self.scale[:, part], self.zero_point[:, part]
        if self.learning is not None:
            scale = self.learning.scale(scale, part)
        if len(scale) == 1:
            return self._on_row(x, scale[0], zero_point[0])
        rows = self.rows()
        if bool((rows == rows[0]).all()):
            return self._on_row(x, scale[rows[0]], zero_point[rows[0]])
        if self.learning is not None:
            return fake_quantize_learnable(
                x, scale[rows], zero_point[rows], num_bits=self.num_bits
            )
        return fake_quantize_samples(
            x, scale[rows], zero_point[rows], num_bits=self.num_bits
        )

    def _on_row(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        if self.learning is not None:
            return fake_quantize_learnable(x, scale, zero_point, num_bits=self.num_bits)
        return fake_quantize_tensor(x, scale, zero_point, num_bits=self.num_bits)


class SoftmaxQuantizer(nn.Module):
    """The grids of a post-softmax map, one for each timestep group.

    `log_step` is zero for a uniform grid and otherwise the logarithm of the grid's
    base: 1 for log2, 1/2 for log-root-2, k/37 for AdaLog's.
    """

    scale: Float[Tensor, "G"]
    log_step: Float[Tensor, "G"]

    def __init__(
        self, num_bits: int, *, cursor: TimestepCursor, num_timesteps: int
    ) -> None:
        super().__init__()
        self.num_bits = num_bits
        self.cursor = cursor
        self.num_timesteps = num_timesteps
        self.register_buffer("scale", torch.full((1,), torch.nan))
        self.register_buffer("log_step", torch.zeros(1))
        self.is_fitted = False
        self.is_active = False

    @property
    def groups(self) -> TimestepGroups:
        """The partition of timesteps that the choices refer to."""
        return TimestepGroups(self.num_timesteps, self.scale.numel())

    def fit(self, peak: Float[Tensor, "G"], log_step: Float[Tensor, "G"]) -> None:
        """Set each group's largest value and kind of grid."""
        self.load(grid_scale(peak, log_step, num_bits=self.num_bits), log_step)

    def load(self, scale: Float[Tensor, "G"], log_step: Float[Tensor, "G"]) -> None:
        """Set the grids themselves, as a checkpoint holds them."""
        device = self.scale.device
        self.scale = scale.to(device).clone()
        self.log_step = log_step.to(device).clone()
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
        return softmax_grid(
            a, self.scale[g], log_step=float(self.log_step[g]), num_bits=self.num_bits
        )

    def _mixed(
        self, a: Float[Tensor, "N *S"], group: Int[Tensor, "N"]
    ) -> Float[Tensor, "N *S"]:
        parts = torch.empty_like(a)
        for g in group.unique().tolist():
            at = group == g
            parts = parts.index_put((at,), self._on_grid(a[at], g))
        return parts


def softmax_grid(
    a: Float[Tensor, "*S"],
    scale: Float[Tensor, ""],
    *,
    log_step: float,
    num_bits: int,
) -> Float[Tensor, "*S"]:
    """Return a map on one grid; scale is the step (uniform) or the peak (log)."""
    if log_step == 0.0:
        zero = torch.zeros_like(scale)
        return fake_quantize_tensor(a, scale, zero, num_bits=num_bits)
    a_hat = fake_quantize_log(a, scale, log_step=log_step, num_bits=num_bits)
    return straight_through(a, a_hat)


def grid_scale(
    peak: Float[Tensor, "*Q"], log_step: Float[Tensor, "*Q"], *, num_bits: int
) -> Float[Tensor, "*Q"]:
    """Return the scale with which a grid's largest value is `peak`."""
    peak = peak.clamp(min=torch.finfo(torch.float32).tiny * 2**24)
    return torch.where(log_step > 0, peak, peak / (2**num_bits - 1))

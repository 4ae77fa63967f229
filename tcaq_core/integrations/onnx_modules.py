"""Stand-ins for our modules that trace to ONNX operators.

A module here takes over the tensors of one of ours and says the same with
QuantizeLinear and DequantizeLinear. None of them can be run: while a graph is traced,
torch only follows the shapes.
"""

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn
from torch.onnx.ops import symbolic

from tcaq_core.correction import OutputCorrection
from tcaq_core.quantizers import SoftmaxQuantizer, UniformQuantizer
from tcaq_core.temporal import CachedFeature
from tcaq_core.timesteps import TimestepGroups


class Moment:
    """Where the graph's timestep falls in every kind of table."""

    def __init__(self, num_timesteps: int) -> None:
        self.num_timesteps = num_timesteps
        self.t: Int[Tensor, ""]
        """The timestep, clamped to those that the model was trained on."""
        self.step: Int[Tensor, ""]
        """The row of tables by sampler step."""
        self.cached: Int[Tensor, ""]
        """The row of cached features."""

    def group(self, num_groups: int) -> Int[Tensor, ""]:
        """Return the timestep group, out of an even partition."""
        return TimestepGroups(self.num_timesteps, num_groups).of(self.t)


def gather(table: Num[Tensor, "R *S"], row: Int[Tensor, ""]) -> Num[Tensor, "*S"]:
    """Return one row of a table (ONNX Gather)."""
    found: Tensor = symbolic(
        "Gather", (table, row), {"axis": 0}, dtype=table.dtype, shape=table.shape[1:]
    )
    return found


def quantize_dequantize(
    x: Float[Tensor, "*S"],
    scale: Float[Tensor, ""],
    zero_point: Num[Tensor, ""],
    *,
    num_bits: int,
) -> Float[Tensor, "*S"]:
    """Return x on a uint8 grid; below 8 bits a Clip keeps it to the codes there are."""
    if num_bits < 8:
        zero = zero_point.to(torch.float32)
        bounds = (-zero * scale, (2**num_bits - 1 - zero) * scale)
        x = symbolic("Clip", (x, *bounds), dtype=x.dtype, shape=x.shape)
    codes = symbolic(
        "QuantizeLinear", (x, scale, zero_point), dtype=torch.uint8, shape=x.shape
    )
    x_hat: Tensor = symbolic(
        "DequantizeLinear", (codes, scale, zero_point), dtype=x.dtype, shape=x.shape
    )
    return x_hat


class OnnxGrid(nn.Module):
    """An activation quantizer of one part: QuantizeLinear, DequantizeLinear.

    A table by sampler step is read with Gather, so its scale is computed in the graph.
    """

    scale: Float[Tensor, "R"]
    zero_point: Num[Tensor, "R"]

    def __init__(self, grid: UniformQuantizer, part: int, moment: Moment) -> None:
        super().__init__()
        self.num_bits = grid.num_bits
        self.moment = moment
        scale, zero_point = grid.scale[:, part], grid.zero_point[:, part]
        if grid.row_of_step is not None:
            scale, zero_point = scale[grid.row_of_step], zero_point[grid.row_of_step]
        self.register_buffer("scale", scale.clone())
        self.register_buffer("zero_point", zero_point.to(torch.uint8))

    def forward(self, x: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """Return x on its grid."""
        scale, zero_point = self.scale, self.zero_point
        if len(scale) == 1:
            scale, zero_point = scale.reshape(()), zero_point.reshape(())
        else:
            scale = gather(scale, self.moment.step)
            zero_point = gather(zero_point, self.moment.step)
        return quantize_dequantize(x, scale, zero_point, num_bits=self.num_bits)


class OnnxSoftmaxGrid(nn.Module):
    """A softmax quantizer: Q/DQ on uniform grids, powers of a base on logarithmic ones.

    Where timestep groups differ in kind, both are computed and one is chosen.
    """

    scale: Float[Tensor, "G"]
    log_step: Float[Tensor, "G"]
    zero_point: Num[Tensor, ""]

    def __init__(self, grid: SoftmaxQuantizer, moment: Moment) -> None:
        super().__init__()
        self.num_bits = grid.num_bits
        self.moment = moment
        self.is_uniform = bool((grid.log_step == 0).all())
        self.is_log = bool((grid.log_step > 0).all())
        self.register_buffer("scale", grid.scale.clone())
        self.register_buffer("log_step", grid.log_step.clone())
        self.register_buffer("zero_point", torch.zeros_like(grid.scale[0]).byte())

    def forward(self, a: Float[Tensor, "N *S"]) -> Float[Tensor, "N *S"]:
        """Return the attention map on the grid of the timestep's group."""
        scale, log_step = self._row(self.scale), self._row(self.log_step)
        if self.is_log:
            return self._on_powers(a, scale, log_step)
        uniform = quantize_dequantize(a, scale, self.zero_point, num_bits=self.num_bits)
        if self.is_uniform:
            return uniform
        # A step of one where it is not used: nothing may divide by zero.
        is_log = log_step > 0
        powers = self._on_powers(a, scale, log_step.where(is_log, 1.0))
        return torch.where(is_log, powers, uniform)

    def _row(self, table: Float[Tensor, "G"]) -> Float[Tensor, ""]:
        if len(table) == 1:
            return table.reshape(())
        return gather(table, self.moment.group(len(table)))

    def _on_powers(self, a: Tensor, scale: Tensor, log_step: Tensor) -> Tensor:
        exponent = -torch.log2(a * scale.reciprocal())
        code = torch.round(exponent * log_step.reciprocal()).clamp(min=0)
        value = scale * torch.exp2(-code * log_step)
        return torch.where(code < 2**self.num_bits, value, 0.0)


class OnnxFeature(nn.Module):
    """Cached temporal features: one Gather."""

    table: Float[Tensor, "S D"]

    def __init__(self, feature: CachedFeature, moment: Moment) -> None:
        super().__init__()
        self.moment = moment
        self.register_buffer("table", feature.values().clone())

    def forward(self, x: Float[Tensor, "N *S"]) -> Float[Tensor, "1 D"]:
        """Return the features of the batch's timestep; x only says the type."""
        feature = gather(self.table, self.moment.cached)
        return feature.to(x.dtype).unsqueeze(0)


class OnnxPassThrough(nn.Module):
    """The time embedding's place where features are cached: nothing reads it."""

    def forward(self, sample: Tensor, condition: None = None) -> Tensor:
        """Return the sample."""
        del condition
        return sample


class OnnxCorrection(nn.Module):
    """An output correction: (eps - bias[step]) * gain[step]."""

    gain: Float[Tensor, "S C"]
    bias: Float[Tensor, "S C"]

    def __init__(self, correction: OutputCorrection, moment: Moment) -> None:
        super().__init__()
        self.moment = moment
        self.register_buffer("gain", correction.gain.clone())
        self.register_buffer("bias", correction.bias.clone())

    def forward(self, eps_hat: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        """Return the corrected prediction."""
        gain, bias = (
            gather(table, self.moment.step)[:, None, None]
            for table in (self.gain, self.bias)
        )
        return (eps_hat - bias) * gain

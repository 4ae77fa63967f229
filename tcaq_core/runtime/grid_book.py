"""Every grid of a denoiser in one table by timestep, and the row that is in use.

A forward turns to its timestep once; every layer then reads its own grid at a fixed
place in memory. On a GPU that needs no answer from the device, so that a forward can
be captured in a graph.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.quantizers import SoftmaxQuantizer, UniformQuantizer
from tcaq_core.runtime.kernels import Grid, SoftmaxGrid


class GridBook(nn.Module):
    """The grids of a denoiser's layer inputs, attention operands and softmax maps."""

    scales: Float[Tensor, "T G"]
    zero_points: Int[Tensor, "T G"]
    scale: Float[Tensor, "1 G"]
    zero_point: Int[Tensor, "1 G"]

    def __init__(self, denoiser: QuantizedDenoiser) -> None:
        super().__init__()
        self._first: dict[int, int] = {}
        self._scales: list[Tensor] = []
        self._zero_points: list[Tensor] = []
        self._num_columns = 0
        every_t = torch.arange(denoiser.num_timesteps, device=denoiser.unet.device)
        for quantizer in denoiser.activation_quantizers().values():
            rows = _rows(quantizer, every_t)
            self._add(quantizer, quantizer.scale[rows], quantizer.zero_point[rows])
        for _, _, processor in denoiser.attentions():
            softmax = processor.softmax_quantizer
            group = softmax.groups.of(every_t)
            both = torch.stack([softmax.scale[group], softmax.log_step[group]], dim=1)
            self._add(softmax, both, torch.zeros_like(both))
        scales = torch.cat(self._scales, dim=1).contiguous()
        zero_points = torch.cat(self._zero_points, dim=1).to(torch.int32).contiguous()
        self.register_buffer("scales", scales, persistent=False)
        self.register_buffer("zero_points", zero_points, persistent=False)
        self.register_buffer("scale", scales[:1].clone(), persistent=False)
        self.register_buffer("zero_point", zero_points[:1].clone(), persistent=False)

    def turn_to(self, t: Int[Tensor, "1"]) -> None:
        """Make the grids of one timestep the current ones."""
        row = t.clamp(0, self.scales.shape[0] - 1)
        torch.index_select(self.scales, 0, row, out=self.scale)
        torch.index_select(self.zero_points, 0, row, out=self.zero_point)

    def grids(self, quantizer: UniformQuantizer) -> tuple[Grid, ...]:
        """Return a quantizer's grids, one a part; `turn_to` changes what they hold."""
        first, top = self._first[id(quantizer)], 2**quantizer.num_bits - 1
        return tuple(
            Grid(self.scale[0, at], self.zero_point[0, at], top)
            for at in range(first, first + quantizer.scale.shape[1])
        )

    def softmax_grid(self, quantizer: SoftmaxQuantizer) -> SoftmaxGrid:
        """Return a softmax map's grid; `turn_to` changes what it holds."""
        at = self._first[id(quantizer)]
        scale, log_step = self.scale[0, at], self.scale[0, at + 1]
        return SoftmaxGrid(scale, log_step, quantizer.num_bits)

    def same_grids(self, quantizers: list[UniformQuantizer]) -> bool:
        """Return whether quantizers of one part give equal codes at every timestep."""
        columns = [self._first[id(quantizer)] for quantizer in quantizers]
        return len({quantizer.num_bits for quantizer in quantizers}) == 1 and all(
            torch.equal(table[:, columns[0]], table[:, column])
            for table in (self.scales, self.zero_points)
            for column in columns[1:]
        )

    def _add(self, owner: nn.Module, scales: Tensor, zero_points: Tensor) -> None:
        self._first[id(owner)] = self._num_columns
        self._num_columns += scales.shape[1]
        self._scales.append(scales)
        self._zero_points.append(zero_points)


def _rows(quantizer: UniformQuantizer, every_t: Tensor) -> Int[Tensor, "T"]:
    steps = quantizer.cursor.steps
    if steps is None or (
        quantizer.scale.shape[0] == 1 and quantizer.row_of_step is None
    ):
        return torch.zeros_like(every_t)
    step = steps.index(every_t)
    return step if quantizer.row_of_step is None else quantizer.row_of_step[step]

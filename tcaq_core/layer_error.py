"""What quantizing one layer alone does to its output, on a few of its inputs."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tcaq_core.functional import (
    AffineParams,
    affine_params,
    fake_quantize,
    weight_params,
)
from tcaq_core.layers import QuantConv2d, QuantLayer

# Values of each input that are looked at, about: 16 x 16 positions of 512 channels.
WINDOW_VALUES = 2**17
# A window never gets narrower than this: kernels have to fit in.
MIN_SIDE = 16


@torch.no_grad()
def output_error(
    layer: QuantLayer, inputs: Sequence[Tensor], factor: Float[Tensor, "C"]
) -> float:
    """Return the mean squared error of a layer's output at its bits, min-max grids.

    Input channel j is divided by factor_j and its weights multiplied by it first. The
    input gets one grid, the weight one for each output channel; each part of the
    input channels has its own.
    """
    shape = (-1, *([1] * layer.num_spatial))
    x, weight = torch.cat(list(inputs)), layer.full_weight()
    exact = layer.run(x, weight, None)
    x_hat = _input_on_grids(layer, x * factor.reciprocal().view(shape))
    weight_hat = torch.cat(
        [
            _rows_on_grids(piece, num_bits=layer.bits.weight_bits)
            for piece in (weight * factor.view(shape)).split(layer.parts, dim=1)
        ],
        dim=1,
    )
    error = layer.run(x_hat, weight_hat, None) - exact
    return float(error.square().double().mean())


def window(layer: QuantLayer, x: Tensor) -> Tensor:
    """Return the middle of an input: about `WINDOW_VALUES` values of each sample."""
    positions = max(1, WINDOW_VALUES // x.shape[channel_dim(layer)])
    if channel_dim(layer) == -1:
        return _middle(x, 1, positions)
    side = max(math.isqrt(positions), MIN_SIDE)
    return _middle(_middle(x, 2, side), 3, side)


def channel_peaks(layer: QuantLayer, x: Tensor) -> Float[Tensor, "N C"]:
    """Return each sample's largest magnitude by input channel."""
    if channel_dim(layer) == -1:
        return x.abs().flatten(1, -2).amax(dim=1)
    return x.abs().flatten(2).amax(dim=2)


def channel_dim(layer: QuantLayer) -> int:
    """Return the dimension of a layer's input that holds its channels."""
    return 1 if isinstance(layer, QuantConv2d) else -1


def _input_on_grids(layer: QuantLayer, x: Tensor) -> Tensor:
    num_bits = layer.bits.activation_bits
    if num_bits == 16:
        return x
    dim = channel_dim(layer)
    pieces = x.split(layer.parts, dim=dim)
    grids = [affine_params(p.amin(), p.amax(), num_bits=num_bits) for p in pieces]
    on_grids = [
        fake_quantize(piece, grid, num_bits=num_bits)
        for piece, grid in zip(pieces, grids, strict=True)
    ]
    return torch.cat(on_grids, dim=dim)


def _rows_on_grids(
    weight: Float[Tensor, "D C *K"], *, num_bits: int
) -> Float[Tensor, "D C *K"]:
    rows = weight.flatten(1)
    params = weight_params(rows.amin(1), rows.amax(1), num_bits=num_bits)
    column = AffineParams(params.scale[:, None], params.zero_point[:, None])
    return fake_quantize(rows, column, num_bits=num_bits).view_as(weight)


def _middle(x: Tensor, dim: int, size: int) -> Tensor:
    size = min(size, x.shape[dim])
    return x.narrow(dim, (x.shape[dim] - size) // 2, size)

"""Launches of the kernels that write codes and of attention: tiles, grids, scratch."""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from tcaq_core.runtime.kernels import Grid, Norm, SoftmaxGrid
from tcaq_core.runtime.triton_attention import int8_attention
from tcaq_core.runtime.triton_codes import EXACT
from tcaq_core.runtime.triton_norm import group_moments, normalized_codes
from tcaq_core.runtime.triton_quantize import plain_codes

# Numbers that one program of an elementwise kernel holds, and channels it spans.
TILE, SPAN = 4096, 128
# In Triton's interpreter: small enough that a small test has several tiles.
INTERPRETED_TILE, INTERPRETED_LINES = 512, 16
# Chunks of one image's moments; each program of the second launch reads all of them.
MAX_CHUNKS = 64


def write_codes(
    x: tuple[Tensor, ...],
    out: Tensor,
    grid: Grid,
    *,
    reciprocal: Tensor | None,
) -> None:
    """Write the codes of x * reciprocal, in triton_quantize.py's layout."""
    channels = out.shape[1]
    rows = out.numel() // channels
    span = min(SPAN, triton.next_power_of_2(channels))
    lines = TILE // span if out.is_cuda else INTERPRETED_LINES
    plain_codes[(triton.cdiv(rows, lines), triton.cdiv(channels, span))](
        *_pair(x),
        out,
        reciprocal,
        *(grid.scale, grid.zero_point, grid.top),
        *(rows, x[0].shape[1], channels),
        ROWS=lines,
        CHANNELS=span,
        **EXACT,
    )


@dataclass(frozen=True)
class NormTiles:
    """How the moments of one image are divided among programs."""

    groups: int
    """Groups in a tile."""
    size: int
    """Lanes of a group: the power of two that holds its channels."""
    lines: int
    """Pixels in a tile."""
    chunk_pixels: int
    chunks: int

    @classmethod
    def of(cls, *, groups: int, group_size: int, pixels: int, tile: int) -> "NormTiles":
        """Return tiles that read whole groups and some hundred channels of a pixel."""
        size = triton.next_power_of_2(group_size)
        together = min(max(1, SPAN // size), triton.next_power_of_2(groups))
        lines = max(1, min(tile // (size * together), triton.next_power_of_2(pixels)))
        chunk_tiles = triton.cdiv(triton.cdiv(pixels, lines), MAX_CHUNKS)
        chunk_pixels = chunk_tiles * lines
        chunks = triton.cdiv(pixels, chunk_pixels)
        return cls(together, size, lines, chunk_pixels, chunks)


def normalize_codes(
    x: tuple[Tensor, ...],
    out: Tensor,
    norm: Norm,
    grid: Grid,
    *,
    shift: Tensor | None,
    reciprocal: Tensor | None,
    silu: bool,
) -> None:
    """Write the codes of the group normalisation of x + shift: two launches."""
    batch, channels, height, width = out.shape
    pixels, group_size = height * width, channels // norm.groups
    tiles = NormTiles.of(
        groups=norm.groups,
        group_size=group_size,
        pixels=pixels,
        tile=TILE if out.is_cuda else INTERPRETED_TILE,
    )
    moments = torch.empty(
        (2, batch, tiles.chunks, norm.groups), dtype=torch.float32, device=out.device
    )
    means, squares = moments.unbind()
    across = triton.cdiv(norm.groups, tiles.groups)
    tile = {
        "ROWS": tiles.lines,
        "GROUPS": tiles.groups,
        "SIZE": tiles.size,
        "WHOLE": tiles.size == group_size,
    }
    shape = (pixels, x[0].shape[1], channels, norm.groups, group_size)
    group_moments[(batch, tiles.chunks, across)](
        *_pair(x), shift, means, squares, *shape, tiles.chunk_pixels, **tile, **EXACT
    )
    normalized_codes[(batch, triton.cdiv(pixels, tiles.lines), across)](
        *(*_pair(x), shift, means, squares, norm.weight, norm.bias, out, reciprocal),
        *(grid.scale, grid.zero_point, grid.top, norm.eps),
        *(*shape, tiles.chunks, tiles.chunk_pixels),
        SILU=silu,
        CHUNKS=triton.next_power_of_2(tiles.chunks),
        **tile,
        **EXACT,
    )


def attend(
    operands: tuple[Tensor, Tensor, Tensor],
    out: Tensor,
    grids: tuple[Grid, Grid, Grid],
    softmax: SoftmaxGrid,
    *,
    heads: int,
    scale: float,
) -> None:
    """Write self-attention on codes (N, L, C) into out."""
    batch, length, channels = out.shape
    width = channels // heads
    depth = triton.next_power_of_2(max(width, 32))
    block = 64 if out.is_cuda else INTERPRETED_LINES
    values = min(64, depth)
    queries = triton.cdiv(length, block)
    int8_attention[(queries, batch * heads, triton.cdiv(width, values))](
        *operands,
        out,
        *(grid.scale for grid in grids),
        *(grid.zero_point for grid in grids),
        *(softmax.scale, softmax.log_step, 2**softmax.num_bits - 1),
        *(length, heads, width, scale),
        BLOCK_M=block,
        BLOCK_L=block,
        BLOCK_D=depth,
        BLOCK_V=values,
        num_warps=4,
        num_stages=2,
        **EXACT,
    )


def _pair(x: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
    return x[0], (x[1] if len(x) > 1 else None)

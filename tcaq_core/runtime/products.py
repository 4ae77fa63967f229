"""Sums of products of codes, as signed integer instructions give them."""

from dataclasses import dataclass

from jaxtyping import Float, Int, Int8
from torch import Tensor


@dataclass(frozen=True)
class Centred:
    """Codes minus 128, as signed products take them, by head; and their sums."""

    values: Int8[Tensor, "N heads L d"]
    over_depth: Int[Tensor, "N heads L"]
    over_length: Int[Tensor, "N heads d"]


@dataclass(frozen=True)
class Products:
    """Sums of products of centred codes, and what centring took from them.

    What the codes stand for is factor times (sums + row_factor * row_sums +
    column_factor * column_sums + constant).
    """

    sums: Int[Tensor, "N heads I J"]
    row_sums: Int[Tensor, "N heads I"]
    column_sums: Int[Tensor, "N heads J"]
    row_factor: int
    column_factor: int
    constant: int
    factor: float


@dataclass(frozen=True)
class FloatScores:
    """Sums of products of codes minus zero points, exact integers held as floats."""

    sums: Float[Tensor, "N heads I J"]
    factor: float

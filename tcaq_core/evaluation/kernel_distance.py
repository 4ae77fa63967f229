"""Kernel distance, a squared maximum mean discrepancy (KID: Binkowski, 1801.01401).

The kernel is (x . y / F + 1)^3 and the estimator unbiased (section 4), so a value below
zero is possible and means: as close as can be seen.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from tcaq_core.errors import EvaluationFailed
from tcaq_core.evaluation.moments import refuse_not_finite

DEGREE: Final = 3
NUM_SUBSETS: Final = 100
SUBSET_SIZE: Final = 1000
SEED: Final = 2020
"""torch-fidelity's default: with it, both draw the same subsets."""


@runtime_checkable
class RowStore(Protocol):
    """Features of images, wherever they lie: in memory or in files."""

    def __len__(self) -> int:
        """Return how many images there are."""
        ...

    def rows(self, indices: Int64[Tensor, "M"]) -> Float32[Tensor, "M F"]:
        """Return the features of these images, in the order asked for."""
        ...


@dataclass(frozen=True, eq=False)
class TensorRows:
    """Features that are in memory."""

    features: Float32[Tensor, "N F"]

    def __len__(self) -> int:
        return len(self.features)

    def rows(self, indices: Int64[Tensor, "M"]) -> Float32[Tensor, "M F"]:
        """Return the features of these images, in the order asked for."""
        return self.features[indices]


@dataclass(frozen=True)
class KernelDistance:
    """Mean and standard deviation (ddof 0) over random subsets."""

    mean: float
    std: float
    """Of one subset's value; not the error of the mean: subsets share images."""
    num_subsets: int
    subset_size: int
    values: tuple[float, ...]
    """Of each subset; with the same seed and sizes, of the same images of others."""


def kernel_distance(
    generated: RowStore,
    reference: RowStore,
    *,
    seed: int = SEED,
    num_subsets: int = NUM_SUBSETS,
    subset_size: int = SUBSET_SIZE,
    tick: Callable[[], None] = lambda: None,
) -> KernelDistance:
    """Return the mean squared MMD of random subsets of images, float64.

    A subset has at most as many images as either side has. With the same seed, sizes
    and order of images, the subsets are torch-fidelity's. Memory grows with a subset's
    size (and 8 bytes an image for a permutation), not with the number of images.
    `tick` is called before each subset; what it raises ends the computation.

    Raises:
        EvaluationFailed: fewer than two images on a side, features of different widths
            or not finite.
    """
    size = min(subset_size, len(generated), len(reference))
    if size < 2:
        raise EvaluationFailed(
            f"A kernel distance of subsets of {size} images cannot be computed.",
            hint="Score at least two images against at least two.",
        )
    # NumPy freezes this generator's stream for good, which torch does not promise.
    draw = np.random.RandomState(seed)
    found = []
    for _ in range(num_subsets):
        tick()
        x = _subset(generated, size, draw)
        y = _subset(reference, size, draw)
        found.append(squared_mmd(x, y))
    values = torch.tensor(found, dtype=torch.float64)
    std = float(values.std(correction=0))
    mean = float(values.mean())
    return KernelDistance(mean, std, num_subsets, size, tuple(found))


def squared_mmd(x: Float64[Tensor, "M F"], y: Float64[Tensor, "M G"]) -> float:
    """Return the unbiased estimate of MMD^2 between two samples.

    Raises:
        EvaluationFailed: features of different widths.
    """
    if x.shape[1] != y.shape[1]:
        raise EvaluationFailed(
            f"The images have {x.shape[1]} features each, the reference {y.shape[1]}.",
            hint="Make both with the same extractor and layer.",
        )
    m = len(x)
    within = _sum_of_others(x) + _sum_of_others(y)
    return float(within / (m * (m - 1)) - 2 * _kernel(x, y).mean())


def _sum_of_others(x: Float64[Tensor, "M F"]) -> Float64[Tensor, ""]:
    kernel = _kernel(x, x)
    return kernel.sum() - kernel.trace()


def _kernel(
    x: Float64[Tensor, "M F"], y: Float64[Tensor, "K F"]
) -> Float64[Tensor, "M K"]:
    return (x @ y.T).div_(x.shape[1]).add_(1).pow_(DEGREE)


def _subset(
    store: RowStore,
    size: int,
    draw: np.random.RandomState,
) -> Float64[Tensor, "M F"]:
    chosen = draw.choice(len(store), size, replace=False)
    features = store.rows(torch.from_numpy(chosen).long())
    refuse_not_finite(features)
    return features.double()

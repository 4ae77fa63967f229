"""What pytorch-fid does, in a few lines of our own on our modules' weights.

https://github.com/mseitzer/pytorch-fid (inception.py, fid_score.py): plain torch,
float32, channels first, batch norm as it stands, the pooling branches' averages taken
before their convolutions, half-pixel resize, scipy's matrix square root.
"""

import importlib
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as nnf

from benchmarks.evaluation_engine import Engine, EngineUnavailable, Statistics
from tcaq_core.evaluation.inception import IMAGE_SIZE, InceptionV3
from tcaq_core.evaluation.inception_blocks import InceptionA, InceptionC, InceptionE

NAME: Final = "pytorch-fid-style"
BATCH: Final = 50
"""Its default batch size."""
SINGULAR: Final = 1e-6
"""What it adds to both diagonals where the root is not finite."""


def build_pytorch_fid_style(weights: Path) -> Engine:
    """Return its graph on the weights of a safetensors file."""
    network = InceptionV3()
    network.load_state_dict(load_file(weights))
    network.eval().requires_grad_(requires_grad=False)

    def extract(images: Tensor) -> Tensor:
        with torch.no_grad():
            # As PIL's images come out of ToTensor: channels first, in [0, 1].
            x = images.permute(0, 3, 1, 2).contiguous().float() / 255
            return torch.cat([forward(network, batch) for batch in x.split(BATCH)])

    return Engine(
        NAME, extract, note=f"eager float32, half-pixel resize, batch {BATCH}"
    )


def forward(network: InceptionV3, x: Tensor) -> Tensor:
    """Return pooled features (N, 2048) of images (N, 3, H, W) in [0, 1]."""
    size = (IMAGE_SIZE, IMAGE_SIZE)
    x = nnf.interpolate(x, size=size, mode="bilinear", align_corners=False)
    return features(network, 2 * x - 1)


def features(net: InceptionV3, x: Tensor) -> Tensor:
    """Return pooled features (N, 2048) of images (N, 3, 299, 299) in [-1, 1]."""
    x = net.Conv2d_2b_3x3(net.Conv2d_2a_3x3(net.Conv2d_1a_3x3(x)))
    x = nnf.max_pool2d(x, 3, stride=2)
    x = net.Conv2d_4a_3x3(net.Conv2d_3b_1x1(x))
    x = nnf.max_pool2d(x, 3, stride=2)
    for wide in (net.Mixed_5b, net.Mixed_5c, net.Mixed_5d):
        x = _block_a(wide, x)
    x = net.Mixed_6a(x)
    for middle in (net.Mixed_6b, net.Mixed_6c, net.Mixed_6d, net.Mixed_6e):
        x = _block_c(middle, x)
    x = net.Mixed_7c(_block_e(net.Mixed_7b, net.Mixed_7a(x)))
    return nnf.adaptive_avg_pool2d(x, (1, 1)).flatten(1)


def _block_a(block: InceptionA, x: Tensor) -> Tensor:
    double = block.branch3x3dbl_2(block.branch3x3dbl_1(x))
    branches = [
        block.branch1x1(x),
        block.branch5x5_2(block.branch5x5_1(x)),
        block.branch3x3dbl_3(double),
        block.branch_pool(_averaged(x)),
    ]
    return torch.cat(branches, 1)


def _block_c(block: InceptionC, x: Tensor) -> Tensor:
    single = block.branch7x7_2(block.branch7x7_1(x))
    double = block.branch7x7dbl_2(block.branch7x7dbl_1(x))
    double = block.branch7x7dbl_4(block.branch7x7dbl_3(double))
    branches = [
        block.branch1x1(x),
        block.branch7x7_3(single),
        block.branch7x7dbl_5(double),
        block.branch_pool(_averaged(x)),
    ]
    return torch.cat(branches, 1)


def _block_e(block: InceptionE, x: Tensor) -> Tensor:
    single = block.branch3x3_1(x)
    double = block.branch3x3dbl_2(block.branch3x3dbl_1(x))
    branches = [
        block.branch1x1(x),
        torch.cat([block.branch3x3_2a(single), block.branch3x3_2b(single)], 1),
        torch.cat([block.branch3x3dbl_3a(double), block.branch3x3dbl_3b(double)], 1),
        block.branch_pool(_averaged(x)),
    ]
    return torch.cat(branches, 1)


def _averaged(x: Tensor) -> Tensor:
    return nnf.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def require() -> None:
    """Import what the Frechet step needs.

    Raises:
        EngineUnavailable: scipy is not installed.
    """
    _linalg()


def statistics(found: Tensor) -> Statistics:
    """Return mean and covariance of features (N, F), float64."""
    exact = found.double().numpy()
    return {"mu": np.mean(exact, axis=0), "sigma": np.cov(exact, rowvar=False)}


def distance(found: Tensor, reference: Statistics) -> float:
    """Return the Frechet distance through scipy's square root of the product."""
    own = statistics(found)
    gap = own["mu"] - reference["mu"]
    root = _root(own["sigma"], reference["sigma"])
    traces = np.trace(own["sigma"]) + np.trace(reference["sigma"])
    return float(gap.dot(gap) + traces - 2 * np.trace(root))


def _root(a: Any, b: Any) -> Any:  # noqa: ANN401 - numpy's matrices, scipy's answer
    root = _linalg().sqrtm(a.dot(b))
    if not np.isfinite(root).all():
        offset = np.eye(len(a)) * SINGULAR
        root = _linalg().sqrtm((a + offset).dot(b + offset))
    return root.real


def _linalg() -> Any:  # noqa: ANN401 - it has no types
    try:
        return importlib.import_module("scipy.linalg")
    except ModuleNotFoundError as error:
        raise EngineUnavailable("scipy is not installed: pip install scipy") from error

"""The resize of FID: bilinear as TensorFlow 1.x did it, without antialiasing.

Output pixel i looks at i * in / out, unlike the half-pixel centres that came later;
scores differ by points between the two (2104.11222).
"""

import torch
from jaxtyping import Float
from torch import Tensor


def resize_tf1(
    images: Float[Tensor, "N H W C"], *, size: int
) -> Float[Tensor, "N {size} {size} C"]:
    """Return images of size x size pixels, equal to TensorFlow 1.x's to the last bit.

    Columns first, on the few rows there are, then rows: the order and the float32
    arithmetic of its ``resize_bilinear`` (``align_corners=False``).
    """
    return _lerp(_lerp(images, dim=2, size=size), dim=1, size=size)


def _lerp(images: Float[Tensor, "N H W C"], *, dim: int, size: int) -> Tensor:
    old = images.shape[dim]
    # Float32 also here: the position's rounding is part of the definition.
    place = torch.arange(size, dtype=torch.float32) * torch.tensor(old / size)
    low = place.long()
    fraction = (place - low).to(images.device)
    high = (low + 1).clamp(max=old - 1)
    first = images.index_select(dim, low.to(images.device))
    second = images.index_select(dim, high.to(images.device))
    shape = [1, 1, 1, 1]
    shape[dim] = size
    return second.sub_(first).mul_(fraction.reshape(shape)).add_(first)

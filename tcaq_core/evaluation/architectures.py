"""Which feature network a set of named tensors is; torch-free.

From names and shapes alone, so that a file's header is enough to know whether it can
be used.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Architecture = Literal["cifar-resnet", "inception-v3"]
Shapes = Mapping[str, tuple[int, ...]]

SPATIAL_CHANNELS: Final = 7
"""As many as sFID takes (2103.03841, section 4)."""
MIN_WIDTH: Final = 4
"""Of the first stage: the middle one then has the spatial channels."""
MAX_BLOCKS: Final = 100
INCEPTION_LAYER: Final = "2048"
RESNET_LAYER: Final = "avgpool"
INCEPTION_TENSORS: Final = 94 * 5 + 2
"""A weight and four of batch norm for each convolution; the last layer's two."""
# Enough to know it by, with the number of tensors. torchvision's Inception has the same
# names, but pools otherwise: its 1,000 classes tell it from the 1,008 of the graph.
_INCEPTION: Final = {
    "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
    "Mixed_6d.branch1x1.conv.weight": (192, 768, 1, 1),
    "Mixed_7c.branch_pool.conv.weight": (192, 2048, 1, 1),
    "fc.weight": (1008, 2048),
    "fc.bias": (1008,),
}


@dataclass(frozen=True)
class Structure:
    """A network's architecture and its sizes."""

    architecture: Architecture
    num_features: int
    num_classes: int
    num_blocks: int = 0
    """Of each of a ResNet's stages; 0 for others."""
    width: int = 0
    """Channels of a ResNet's first stage; 0 for others."""


INCEPTION_V3: Final = Structure("inception-v3", num_features=2048, num_classes=1008)


def structure_of(shapes: Shapes) -> Structure | None:
    """Return what network has tensors of these names and shapes; None: none known."""
    used = {name: shape for name, shape in shapes.items() if is_used(name)}
    if used.items() >= _INCEPTION.items() and len(used) == INCEPTION_TENSORS:
        return INCEPTION_V3
    return _resnet(used)


def is_used(name: str) -> bool:
    """Return whether inference needs the tensor; batch norm's counters it does not."""
    return not name.endswith(".num_batches_tracked")


def num_spatial(architecture: Architecture, image_size: int | None) -> int:
    """Return the width of the spatial features of images of that side in pixels."""
    if architecture == "inception-v3" or image_size is None:
        return SPATIAL_CHANNELS * 17 * 17
    return SPATIAL_CHANNELS * (image_size // 4) ** 2


def _resnet(shapes: Shapes) -> Structure | None:
    first, last = shapes.get("conv1.weight", ()), shapes.get("linear.weight", ())
    if len(first) != 4 or len(last) != 2 or first[0] < MIN_WIDTH:
        return None
    num_blocks = sum(
        f"layer1.{i}.conv1.weight" in shapes for i in range(MAX_BLOCKS + 1)
    )
    if not 1 <= num_blocks <= MAX_BLOCKS:
        return None
    expected = resnet_shapes(num_blocks=num_blocks, width=first[0], num_classes=last[0])
    if expected != shapes:
        return None
    return Structure("cifar-resnet", last[1], last[0], num_blocks, first[0])


def resnet_shapes(
    *, num_blocks: int, width: int, num_classes: int
) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a ResNet for CIFAR with shortcuts without parameters."""
    shapes: dict[str, tuple[int, ...]] = _pair_shapes("", 1, 3, width)
    in_channels = width
    for stage in (1, 2, 3):
        out_channels = width * 2 ** (stage - 1)
        for block in range(num_blocks):
            prefix = f"layer{stage}.{block}."
            shapes |= _pair_shapes(prefix, 1, in_channels, out_channels)
            shapes |= _pair_shapes(prefix, 2, out_channels, out_channels)
            in_channels = out_channels
    shapes["linear.weight"] = (num_classes, 4 * width)
    shapes["linear.bias"] = (num_classes,)
    return shapes


def _pair_shapes(
    prefix: str, number: int, in_channels: int, out_channels: int
) -> dict[str, tuple[int, ...]]:
    norm = ("weight", "bias", "running_mean", "running_var")
    return {
        f"{prefix}conv{number}.weight": (out_channels, in_channels, 3, 3),
        **{f"{prefix}bn{number}.{part}": (out_channels,) for part in norm},
    }

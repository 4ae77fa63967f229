"""A real feature network that needs no file: one convolution with seeded weights."""

import hashlib

import torch
from jaxtyping import UInt8
from torch import Tensor

from tcaq_core.errors import EvaluationFailed
from tcaq_core.evaluation.features import Features
from tcaq_core.evaluation.record import ExtractorInfo


class SeededExtractor:
    """Strided convolution and ReLU; pooled and spatial features of its map.

    An image that is black all over has features that are not finite.
    """

    def __init__(
        self,
        *,
        num_features: int = 6,
        num_spatial: int = 4,
        image_size: int | None = 8,
        seed: int = 0,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._weight = torch.randn(num_features, 3, 4, 4, generator=generator)
        raw = self._weight.numpy().tobytes()
        self.info = ExtractorInfo(
            name=f"seeded-{seed}",
            weights_sha256=hashlib.sha256(raw).hexdigest(),
            layer="pooled",
            num_features=num_features,
            num_spatial=num_spatial,
            num_classes=0,
            resize="none",
            image_size=image_size,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        )

    def __call__(self, images: UInt8[Tensor, "N H W C"]) -> Features:
        """Return the features of images.

        Raises:
            EvaluationFailed: an image is black all over.
        """
        if bool((images == 0).flatten(1).all(1).any()):
            raise EvaluationFailed("An image is black.", hint="Look at it.")
        x = (images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
        maps = torch.nn.functional.conv2d(x, self._weight, stride=4).relu()
        spatial = None
        if self.info.num_spatial:
            spatial = maps.flatten(1)[:, : self.info.num_spatial]
        return Features(maps.mean((2, 3)), spatial, None)

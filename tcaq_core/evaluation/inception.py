"""The network of FID (1706.08500): the Inception v3 of the 2015-12-05 TensorFlow graph.

Written anew after that graph; pytorch-fid's and torch-fidelity's compute the same. The
tensors' names are those of their weights.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 # its usual name

from tcaq_core.evaluation.architectures import SPATIAL_CHANNELS
from tcaq_core.evaluation.inception_blocks import (
    BasicConv2d,
    InceptionA,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
)
from tcaq_core.evaluation.maps import Maps

IMAGE_SIZE = 299


class InceptionV3(nn.Module):
    """From images of 299 x 299 pixels in [-1, 1] to what FID, sFID and IS need."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = BasicConv2d(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, 3)
        self.Conv2d_2b_3x3 = BasicConv2d(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = BasicConv2d(64, 80)
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, 3)
        self.Mixed_5b = InceptionA(192, pool_features=32)
        self.Mixed_5c = InceptionA(256, pool_features=64)
        self.Mixed_5d = InceptionA(288, pool_features=64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = InceptionC(768, channels_7x7=128)
        self.Mixed_6c = InceptionC(768, channels_7x7=160)
        self.Mixed_6d = InceptionC(768, channels_7x7=160)
        self.Mixed_6e = InceptionC(768, channels_7x7=192)
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b = InceptionE(1280, pool="average")
        self.Mixed_7c = InceptionE(2048, pool="max")
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x: Float[Tensor, "N 3 299 299"]) -> Maps:
        """Return the features and logits.

        ``spatial``: the first seven channels of Mixed_6d's first branch after its ReLU,
        ``mixed_6/conv:0`` of the TensorFlow graph, 17 x 17 pixels: sFID's, as in the
        evaluator of 2105.05233. ``logits`` are without the bias of `fc`, as the
        Inception score has always been computed.
        """
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x))))
        # The block's first maps are its first branch's.
        spatial = x[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        x = self.Mixed_7b(self.Mixed_7a(self.Mixed_6e(x)))
        pooled = self.Mixed_7c(x).float().mean(dim=(2, 3))
        return Maps(spatial, pooled, F.linear(pooled, self.fc.weight))

    def fold(self) -> None:
        """Fold every batch norm into its convolution, in place; for inference only."""
        for module in self.modules():
            if isinstance(module, BasicConv2d):
                module.fold()

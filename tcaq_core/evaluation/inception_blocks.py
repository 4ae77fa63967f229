"""The blocks of the Inception v3 (1512.00567) as in the TensorFlow graph of 2015-12-05.

They differ from torchvision's in their pooling branches: averages are over the pixels
inside the picture, and the last block takes a maximum. Names are the weights' own.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 # its usual name

from tcaq_core.evaluation.folding import conv_relu, fold_batch_norm

NORM_EPS = 1e-3


class BasicConv2d(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int] = 1,
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding, bias=False
        )
        self.bn: nn.Module = nn.BatchNorm2d(out_channels, eps=NORM_EPS)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D P Q"]:
        """Return relu(norm(conv(x)))."""
        if isinstance(self.bn, nn.Identity):
            return conv_relu(self.conv, x)
        return F.relu(self.linear(x), inplace=True)

    def linear(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D P Q"]:
        """Return norm(conv(x))."""
        y: Tensor = self.bn(self.conv(x))
        return y

    def fold(self) -> None:
        """Make one convolution of the two, in place; for inference only."""
        if isinstance(self.bn, nn.BatchNorm2d):
            self.conv = fold_batch_norm(self.conv, self.bn)
            self.bn = nn.Identity()


class InceptionA(nn.Module):
    """Mixed_5b, 5c, 5d: 35 x 35 pixels, out: 224 + pool_features channels."""

    def __init__(self, in_channels: int, *, pool_features: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(in_channels, 64)
        self.branch5x5_1 = BasicConv2d(in_channels, 48)
        self.branch5x5_2 = BasicConv2d(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = BasicConv2d(in_channels, 64)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, padding=1)
        self.branch_pool = BasicConv2d(in_channels, pool_features)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D H W"]:
        """Return the branches' maps, one after the other."""
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch5x5_2(self.branch5x5_1(x)),
                self.branch3x3dbl_3(double),
                averaged(self.branch_pool, x),
            ],
            dim=1,
        )


class InceptionB(nn.Module):
    """Mixed_6a: from 35 x 35 to 17 x 17 pixels, out: 480 + C channels."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.branch3x3 = BasicConv2d(in_channels, 384, 3, stride=2)
        self.branch3x3dbl_1 = BasicConv2d(in_channels, 64)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, stride=2)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D P Q"]:
        """Return the branches' maps, one after the other."""
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=2)
        return torch.cat([self.branch3x3(x), self.branch3x3dbl_3(double), pooled], 1)


class InceptionC(nn.Module):
    """Mixed_6b, 6c, 6d, 6e: 17 x 17 pixels, out: 768 channels."""

    def __init__(self, in_channels: int, *, channels_7x7: int) -> None:
        super().__init__()
        c7, wide, high = channels_7x7, _WIDE, _HIGH
        self.branch1x1 = BasicConv2d(in_channels, 192)
        self.branch7x7_1 = BasicConv2d(in_channels, c7)
        self.branch7x7_2 = BasicConv2d(c7, c7, (1, 7), padding=wide)
        self.branch7x7_3 = BasicConv2d(c7, 192, (7, 1), padding=high)
        self.branch7x7dbl_1 = BasicConv2d(in_channels, c7)
        self.branch7x7dbl_2 = BasicConv2d(c7, c7, (7, 1), padding=high)
        self.branch7x7dbl_3 = BasicConv2d(c7, c7, (1, 7), padding=wide)
        self.branch7x7dbl_4 = BasicConv2d(c7, c7, (7, 1), padding=high)
        self.branch7x7dbl_5 = BasicConv2d(c7, 192, (1, 7), padding=wide)
        self.branch_pool = BasicConv2d(in_channels, 192)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D H W"]:
        """Return the branches' maps, one after the other."""
        single = self.branch7x7_2(self.branch7x7_1(x))
        double = self.branch7x7dbl_2(self.branch7x7dbl_1(x))
        double = self.branch7x7dbl_4(self.branch7x7dbl_3(double))
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch7x7_3(single),
                self.branch7x7dbl_5(double),
                averaged(self.branch_pool, x),
            ],
            dim=1,
        )


class InceptionD(nn.Module):
    """Mixed_7a: from 17 x 17 to 8 x 8 pixels, out: 512 + C channels."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.branch3x3_1 = BasicConv2d(in_channels, 192)
        self.branch3x3_2 = BasicConv2d(192, 320, 3, stride=2)
        self.branch7x7x3_1 = BasicConv2d(in_channels, 192)
        self.branch7x7x3_2 = BasicConv2d(192, 192, (1, 7), padding=_WIDE)
        self.branch7x7x3_3 = BasicConv2d(192, 192, (7, 1), padding=_HIGH)
        self.branch7x7x3_4 = BasicConv2d(192, 192, 3, stride=2)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D P Q"]:
        """Return the branches' maps, one after the other."""
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat(
            [
                self.branch3x3_2(self.branch3x3_1(x)),
                self.branch7x7x3_4(seven),
                F.max_pool2d(x, 3, stride=2),
            ],
            dim=1,
        )


class InceptionE(nn.Module):
    """Mixed_7b, 7c: 8 x 8 pixels, out: 2048 channels."""

    def __init__(self, in_channels: int, *, pool: Literal["average", "max"]) -> None:
        super().__init__()
        self.pool = pool
        self.branch1x1 = BasicConv2d(in_channels, 320)
        self.branch3x3_1 = BasicConv2d(in_channels, 384)
        self.branch3x3_2a = BasicConv2d(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = BasicConv2d(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = BasicConv2d(in_channels, 448)
        self.branch3x3dbl_2 = BasicConv2d(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = BasicConv2d(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = BasicConv2d(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = BasicConv2d(in_channels, 192)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N 2048 H W"]:
        """Return the branches' maps, one after the other."""
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        if self.pool == "average":
            pooled = averaged(self.branch_pool, x)
        else:
            pooled = self.branch_pool(F.max_pool2d(x, 3, stride=1, padding=1))
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch3x3_2a(single),
                self.branch3x3_2b(single),
                self.branch3x3dbl_3a(double),
                self.branch3x3dbl_3b(double),
                pooled,
            ],
            dim=1,
        )


_WIDE = (0, 3)
_HIGH = (3, 0)


def averaged(
    branch: BasicConv2d, x: Float[Tensor, "N C H W"]
) -> Float[Tensor, "N D H W"]:
    """Return relu(branch(mean of x over each pixel's 3 x 3 neighbours in the picture)).

    A convolution of single pixels and a mean over pixels can change places: averaged
    are then far fewer channels.
    """
    y = F.avg_pool2d(branch.linear(x), 3, 1, 1, count_include_pad=False)
    return F.relu(y, inplace=True)

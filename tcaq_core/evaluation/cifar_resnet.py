"""The ResNets for CIFAR of 1512.03385, section 4.2, as classifiers and for features."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 # its usual name

from tcaq_core.evaluation.architectures import SPATIAL_CHANNELS
from tcaq_core.evaluation.folding import fold_batch_norm
from tcaq_core.evaluation.maps import Maps


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut without parameters (option A)."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, out_channels, stride=stride)
        self.bn1: nn.Module = nn.BatchNorm2d(out_channels)
        self.conv2 = _conv3x3(out_channels, out_channels, stride=1)
        self.bn2: nn.Module = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.missing = out_channels - in_channels

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D P Q"]:
        """Return relu(shortcut(x) + f(x)); new channels of the shortcut are zero."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if self.missing:
            # Half of the zeros before, half after: as in the weights that are about.
            before = self.missing // 2
            sides = (0, 0, 0, 0, before, self.missing - before)
            x = F.pad(x[:, :, :: self.stride, :: self.stride], sides)
        return F.relu(y.add_(x), inplace=True)


class CifarResNet(nn.Module):
    """A ResNet of 6n + 2 layers: three stages of n blocks, at 32, 16 and 8 pixels."""

    def __init__(self, *, num_blocks: int, width: int = 16, num_classes: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(3, width, stride=1)
        self.bn1: nn.Module = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, num_blocks, stride=1)
        self.layer2 = _stage(width, 2 * width, num_blocks, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, num_blocks, stride=2)
        self.linear = nn.Linear(4 * width, num_classes)

    def forward(self, x: Float[Tensor, "N 3 H W"]) -> Maps:
        """Return the features and logits of normalised images.

        ``pooled`` is the mean of the last stage over its pixels. ``spatial`` are the
        first seven channels of the middle stage, averaged over 2x2 pixels: the last
        maps but one in resolution, where sFID looks too, and few enough numbers that
        2,000 images determine their covariance.
        """
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        middle = self.layer2(self.layer1(x))
        spatial = F.avg_pool2d(middle[:, :SPATIAL_CHANNELS], 2)
        pooled = self.layer3(middle).float().mean(dim=(2, 3))
        flat = spatial.permute(0, 2, 3, 1).flatten(1)
        return Maps(flat, pooled, self.linear(pooled))

    def fold(self) -> None:
        """Fold every batch norm into its convolution, in place; for inference only."""
        for module in self.modules():
            if isinstance(module, CifarResNet | BasicBlock):
                _fold(module, "conv1", "bn1")
            if isinstance(module, BasicBlock):
                _fold(module, "conv2", "bn2")


def _fold(module: nn.Module, conv_name: str, norm_name: str) -> None:
    conv, norm = getattr(module, conv_name), getattr(module, norm_name)
    if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
        setattr(module, conv_name, fold_batch_norm(conv, norm))
        setattr(module, norm_name, nn.Identity())


def _conv3x3(in_channels: int, out_channels: int, *, stride: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


def _stage(
    in_channels: int, out_channels: int, num_blocks: int, *, stride: int
) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride=stride)
    rest = (
        BasicBlock(out_channels, out_channels, stride=1) for _ in range(num_blocks - 1)
    )
    return nn.Sequential(first, *rest)

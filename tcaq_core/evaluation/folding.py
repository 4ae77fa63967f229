"""What follows a convolution as part of it, for networks that only infer."""

import copy
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 # its usual name

_ops: Final[Any] = torch.ops.mkldnn


def fold_batch_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return one convolution that computes what the pair computes in evaluation mode.

    With s = gamma / sqrt(variance + eps): weight s W, bias beta + s (b - mean).
    """
    # In float64, so that weights are rounded once.
    double = {name: value.double() for name, value in norm.state_dict().items()}
    scale = double["weight"] / torch.sqrt(double["running_var"] + norm.eps)
    bias = 0.0 if conv.bias is None else conv.bias.double()
    weight = conv.weight.detach().double() * scale.reshape(-1, 1, 1, 1)
    shift = double["bias"] + scale * (bias - double["running_mean"])
    folded = copy.deepcopy(conv)
    folded.register_parameter("weight", _frozen(weight.to(conv.weight.dtype)))
    folded.register_parameter("bias", _frozen(shift.to(conv.weight.dtype)))
    return folded


def conv_relu(conv: nn.Conv2d, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D P Q"]:
    """Return relu(conv(x)); on a CPU as one operation of oneDNN, for inference only.

    It writes each map once where two operations write it twice: 5 % of the Inception's
    time on one core.
    """
    if not _is_fused(x):
        return F.relu(conv(x), inplace=True)
    how = (conv.padding, conv.stride, conv.dilation, conv.groups)
    y: Tensor = _ops._convolution_pointwise(  # noqa: SLF001 # as torch.compile calls it
        x, conv.weight, conv.bias, *how, "relu", [], ""
    )
    return y


def _is_fused(x: Float[Tensor, "N C H W"]) -> bool:
    if x.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if x.dtype == torch.bfloat16:
        return bool(_ops._is_mkldnn_bf16_supported())  # noqa: SLF001
    return x.dtype == torch.float32 and len(x) > 0


def _frozen(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach(), requires_grad=False)

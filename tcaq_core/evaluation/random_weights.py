"""Networks with random weights, for tests and benchmarks where no trained ones are."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tcaq_core.evaluation.architectures import is_used
from tcaq_core.evaluation.inception import InceptionV3


def save_random_inception(path: Path, *, generator: torch.Generator) -> None:
    """Write an Inception v3 that is an extractor of its own, of the file's name.

    Its tensors have the names and shapes of FID's canonical weights.
    """
    network = InceptionV3()
    draw_weights(network, generator=generator)
    save_file(_named(network), path)


def draw_weights(network: nn.Module, *, generator: torch.Generator) -> None:
    """Draw weights, in place, with which activations stay of order one.

    Convolutions as in 1502.01852, section 2.2; batch norm's statistics and factors are
    near those of the identity, but no two channels' are equal.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            deviation = (2 / module.weight[0].numel()) ** 0.5
            module.weight.data.normal_(std=deviation, generator=generator)
            if module.bias is not None:
                module.bias.data.normal_(std=0.1, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.8, 1.2, generator=generator)
            module.bias.data.normal_(std=0.1, generator=generator)
            state = module.state_dict()
            state["running_mean"].normal_(std=0.1, generator=generator)
            state["running_var"].uniform_(0.8, 1.2, generator=generator)


def _named(network: nn.Module) -> dict[str, Tensor]:
    return {
        name: value for name, value in network.state_dict().items() if is_used(name)
    }

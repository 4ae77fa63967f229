import pytest
import torch

from tcaq_core.evaluation.cifar_resnet import BasicBlock, CifarResNet
from tcaq_core.evaluation.random_weights import draw_weights


def resnet(*, width: int = 4) -> CifarResNet:
    network = CifarResNet(num_blocks=2, width=width, num_classes=3)
    draw_weights(network, generator=torch.Generator().manual_seed(0))
    return network.eval().requires_grad_(requires_grad=False)


@pytest.fixture
def x(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(2, 3, 16, 16, generator=generator)


def test_a_shortcut_takes_every_second_pixel_and_zeros_on_both_sides() -> None:
    block = BasicBlock(2, 4, stride=2).eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.arange(32.0).reshape(1, 2, 4, 4)
    y = block(x)
    assert torch.equal(y[:, 1:3], x[:, :, ::2, ::2])
    assert not y[:, [0, 3]].any()


def test_spatial_features_are_the_middle_stage_s_pixel_by_pixel(
    x: torch.Tensor,
) -> None:
    network = resnet()
    seen: list[torch.Tensor] = []
    with network.layer2.register_forward_hook(lambda *call: seen.append(call[2])):
        maps = network(x)
    (middle,) = seen
    assert middle.shape == (2, 8, 8, 8)
    spatial = maps.spatial.reshape(2, 4, 4, 7)
    # Image 1, the fourth row's second cell, channel 6.
    cell = middle[1, 6, 6:8, 2:4].mean()
    torch.testing.assert_close(spatial[1, 3, 1, 6], cell)


def test_logits_are_of_the_last_maps_means(x: torch.Tensor) -> None:
    network = resnet()
    seen: list[torch.Tensor] = []
    with network.layer3.register_forward_hook(lambda *call: seen.append(call[2])):
        maps = network(x)
    torch.testing.assert_close(maps.pooled, seen[0].flatten(2).mean(2))
    expected = maps.pooled @ network.linear.weight.T + network.linear.bias
    torch.testing.assert_close(maps.logits, expected)


def test_folding_changes_nothing_but_the_last_digits(x: torch.Tensor) -> None:
    network = resnet()
    before = network(x)
    network.fold()
    after = network(x)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms == []
    for name in ("pooled", "spatial", "logits"):
        torch.testing.assert_close(
            getattr(after, name), getattr(before, name), rtol=1e-4, atol=1e-5
        )
    network.fold()
    assert torch.equal(network(x).pooled, after.pooled)

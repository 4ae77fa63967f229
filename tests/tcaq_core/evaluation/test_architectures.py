import pytest
import torch

from tcaq_core.evaluation.architectures import (
    INCEPTION_V3,
    Structure,
    num_spatial,
    resnet_shapes,
    structure_of,
)
from tcaq_core.evaluation.cifar_resnet import CifarResNet
from tcaq_core.evaluation.inception import InceptionV3


def shapes_of(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


@pytest.mark.parametrize(
    ("num_blocks", "width", "num_classes"), [(1, 4, 2), (3, 16, 10)]
)
def test_a_resnet_is_known_from_its_tensors(
    num_blocks: int, width: int, num_classes: int
) -> None:
    with torch.device("meta"):
        network = CifarResNet(
            num_blocks=num_blocks, width=width, num_classes=num_classes
        )
    expected = Structure("cifar-resnet", 4 * width, num_classes, num_blocks, width)
    assert structure_of(shapes_of(network)) == expected


def test_an_inception_is_known_from_its_tensors() -> None:
    with torch.device("meta"):
        network = InceptionV3()
    assert structure_of(shapes_of(network)) == INCEPTION_V3


@pytest.mark.parametrize(
    "change",
    [
        {"layer2.0.shortcut.0.weight": (8, 4, 1, 1)},  # option B
        {"layer3.0.conv2.weight": (16, 16, 1, 1)},
        {"layer1.200.conv1.weight": (4, 4, 3, 3)},
        {"linear.weight": (10, 15)},
        {"linear.weight": (10,)},
        {"conv1.weight": (4, 1, 3, 3)},
        {"conv1.weight": ()},
    ],
)
def test_a_resnet_with_another_tensor_is_not_known(
    change: dict[str, tuple[int, ...]],
) -> None:
    shapes = resnet_shapes(num_blocks=2, width=4, num_classes=10)
    assert structure_of(shapes) is not None
    assert structure_of(shapes | change) is None


def test_a_resnet_without_one_of_its_tensors_is_not_known() -> None:
    shapes = resnet_shapes(num_blocks=1, width=4, num_classes=10)
    for name in shapes:
        assert structure_of({k: v for k, v in shapes.items() if k != name}) is None


def test_torchvision_s_inception_is_not_taken_for_fid_s() -> None:
    with torch.device("meta"):
        shapes = shapes_of(InceptionV3())
    theirs = {"fc.weight": (1000, 2048), "fc.bias": (1000,)}
    assert structure_of(shapes | theirs) is None
    assert structure_of(shapes | {"AuxLogits.fc.bias": (1000,)}) is None


def test_an_inception_without_one_of_its_tensors_is_not_known() -> None:
    with torch.device("meta"):
        shapes = shapes_of(InceptionV3())
    del shapes["Mixed_6b.branch7x7_2.bn.running_var"]
    assert structure_of(shapes) is None
    assert structure_of({}) is None


def test_spatial_features_have_the_width_of_sfid_s() -> None:
    assert num_spatial("inception-v3", None) == 2023
    assert num_spatial("cifar-resnet", 32) == 448

"""The Inception graph: equal to torch-fidelity's on the same random weights."""

from types import ModuleType
from typing import Any, Literal

import pytest
import torch
from torch import nn

from tcaq_core.evaluation.inception import InceptionV3
from tcaq_core.evaluation.inception_blocks import InceptionE
from tcaq_core.evaluation.maps import Maps
from tcaq_core.evaluation.random_weights import draw_weights
from tests.tcaq_core.evaluation.fidelity import import_torch_fidelity

__all__ = ["import_torch_fidelity"]


@pytest.fixture(scope="module", name="network")
def make_network() -> InceptionV3:
    network = InceptionV3()
    draw_weights(network, generator=torch.Generator().manual_seed(0))
    return network.eval().requires_grad_(requires_grad=False)


@pytest.fixture(scope="module", name="theirs")
def make_theirs(
    torch_fidelity: ModuleType,
    network: InceptionV3,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:  # noqa: ANN401 # a class of theirs, without types
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(network.state_dict(), path)
    return torch_fidelity.feature_extractor_inceptionv3.FeatureExtractorInceptionV3(
        "test",
        ["192", "768", "2048", "logits_unbiased"],
        feature_extractor_weights_path=str(path),
    )


@pytest.fixture(scope="module", name="x")
def make_x() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 3, 299, 299), generator=generator).byte()


@pytest.fixture(scope="module", name="maps")
def make_maps(network: InceptionV3, x: torch.Tensor) -> Maps:
    maps: Maps = network((x.float() - 128) / 128)
    return maps


def test_the_weights_have_the_same_names_and_shapes(
    network: InceptionV3, theirs: nn.Module
) -> None:
    ours, other = network.state_dict(), theirs.state_dict()
    assert {k: v.shape for k, v in ours.items()} == {
        k: v.shape for k, v in other.items()
    }


def test_features_and_logits_are_torch_fidelity_s(
    theirs: nn.Module, x: torch.Tensor, maps: Maps
) -> None:
    _, _, pooled, logits = theirs(x)
    assert maps.pooled.std() > 0.05
    torch.testing.assert_close(maps.pooled, pooled, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(maps.logits, logits, rtol=1e-5, atol=1e-5)


def test_spatial_features_are_the_first_branch_of_mixed_6d_pixel_by_pixel(
    theirs: nn.Module, x: torch.Tensor, maps: Maps
) -> None:
    seen: list[torch.Tensor] = []
    branch = theirs.get_submodule("Mixed_6d.branch1x1")
    with branch.register_forward_hook(lambda *call: seen.append(call[2])):
        theirs(x)
    (expected,) = seen
    assert expected.amin() == 0
    flat = maps.spatial.reshape(2, 17, 17, 7)
    torch.testing.assert_close(
        flat.permute(0, 3, 1, 2), expected[:, :7], rtol=1e-5, atol=1e-5
    )


def test_folding_changes_nothing_but_the_last_digits(
    network: InceptionV3, x: torch.Tensor, maps: Maps
) -> None:
    folded = InceptionV3()
    folded.load_state_dict(network.state_dict())
    folded.eval().requires_grad_(requires_grad=False).fold()
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    found = folded((x.float() - 128) / 128)
    for name in ("pooled", "spatial", "logits"):
        torch.testing.assert_close(
            getattr(found, name), getattr(maps, name), rtol=1e-5, atol=1e-5
        )


def test_it_has_the_94_convolutions_of_the_graph(network: InceptionV3) -> None:
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 94
    assert {norm.eps for norm in norms} == {1e-3}


def test_the_pooling_branch_averages_inside_the_picture_or_takes_the_largest() -> None:
    x = torch.zeros(1, 1, 2, 2)
    x[0, 0, 0, 0] = 8.0
    found = {}
    pools: tuple[Literal["average", "max"], ...] = ("average", "max")
    for pool in pools:
        block = InceptionE(1, pool=pool).eval()
        conv = block.branch_pool
        with torch.no_grad():
            conv.conv.weight.fill_(1.0)
            conv.bn.load_state_dict(nn.BatchNorm2d(192).state_dict())
            found[pool] = block(x)[0, -1, 0, 0].item()
    # Four pixels are inside the picture, not nine.
    assert found["average"] == pytest.approx(2.0, rel=1e-3)
    assert found["max"] == pytest.approx(8.0, rel=1e-3)

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tcaq_core.errors import EvaluationFailed, ExtractorUnavailable
from tcaq_core.evaluation.cifar_resnet import CifarResNet
from tcaq_core.evaluation.extractor_folder import inspect_extractor
from tcaq_core.evaluation.extractors import FeatureNetwork, load_extractor
from tcaq_core.evaluation.features import Extractor, Features
from tcaq_core.evaluation.protocols import SMALL_CLASSIFIER
from tcaq_core.evaluation.random_weights import draw_weights, save_random_inception
from tcaq_core.evaluation.record import ExtractorDtype
from tests.tcaq_core.evaluation.fidelity import import_torch_fidelity

__all__ = ["import_torch_fidelity"]

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "evaluation" / "extractors" / SMALL_CLASSIFIER
SHARED = ROOT.parent / "shared" / "data"
CPU = torch.device("cpu")


def pictures(num: int, size: int, *, channels: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (num, size, size, channels)
    return torch.randint(0, 256, shape, generator=generator).byte()


def load(path: Path, *, dtype: ExtractorDtype = "float32") -> FeatureNetwork:
    return load_extractor(path, device=CPU, dtype=dtype)


def assert_equal(found: Features, expected: Features) -> None:
    for name in ("pooled", "spatial", "logits"):
        one, other = getattr(found, name), getattr(expected, name)
        assert torch.equal(one, other), name


@pytest.fixture(scope="module", name="inception_file")
def make_inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("extractors") / "random-inception.safetensors"
    save_random_inception(path, generator=torch.Generator().manual_seed(0))
    return path


@pytest.fixture(scope="module", name="inception")
def load_inception(inception_file: Path) -> FeatureNetwork:
    return load(inception_file)


@pytest.fixture(scope="module", name="resnet")
def load_resnet() -> FeatureNetwork:
    return load(SHIPPED)


def save_resnet(path: Path, *, bias: float = 0.0) -> Path:
    network = CifarResNet(num_blocks=1, width=4, num_classes=3)
    draw_weights(network, generator=torch.Generator().manual_seed(0))
    network.linear.bias.data.fill_(bias)
    save_file(network.state_dict(), path)
    return path


def test_its_record_is_the_file_s_and_its_features_have_the_recorded_widths(
    resnet: FeatureNetwork, inception: FeatureNetwork
) -> None:
    assert resnet.info == inspect_extractor(SHIPPED, dtype="float32")
    for network in (resnet, inception):
        extractor: Extractor = network
        found, info = extractor(pictures(1, 32)), extractor.info
        assert found.pooled.shape == (1, info.num_features)
        assert found.spatial is not None
        assert found.spatial.shape == (1, info.num_spatial)
        assert found.logits is not None
        assert found.logits.shape == (1, info.num_classes)


@pytest.mark.parametrize("size", [32, 48])
def test_the_inception_s_features_of_uint8_images_are_torch_fidelity_s(
    torch_fidelity: ModuleType,
    inception: FeatureNetwork,
    inception_file: Path,
    tmp_path: Path,
    size: int,
) -> None:
    torch.save(load_file(inception_file), tmp_path / "weights.pth")
    module = torch_fidelity.feature_extractor_inceptionv3
    theirs = module.FeatureExtractorInceptionV3(
        "test",
        ["2048", "logits_unbiased"],
        feature_extractor_weights_path=str(tmp_path / "weights.pth"),
    )
    images = pictures(2, size)
    pooled, logits = theirs(images.permute(0, 3, 1, 2))
    found = inception(images)
    assert pooled.std() > 0.05
    torch.testing.assert_close(found.pooled, pooled, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.logits, logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_image_s_features_are_the_same_among_others(
    dtype: ExtractorDtype,
) -> None:
    network = load(SHIPPED, dtype=dtype)
    images = pictures(70, 32)
    together = network(images)
    assert together.pooled.dtype == torch.float32
    assert_equal(network(images), together)
    for i in (0, 63, 69):
        torch.testing.assert_close(
            network(images[i : i + 1]).pooled,
            together.pooled[i : i + 1],
            rtol=1e-6,
            atol=1e-6,
        )


def test_weights_may_be_float16(tmp_path: Path) -> None:
    path = save_resnet(tmp_path / "own.safetensors")
    images = pictures(2, 32)
    exact = load(path)(images)
    save_file({k: v.half() for k, v in load_file(path).items()}, path)
    found = load(path)(images)
    assert not torch.equal(found.pooled, exact.pooled)
    torch.testing.assert_close(found.pooled, exact.pooled, rtol=0.02, atol=0.02)


def test_the_inception_s_batches_are_its_own_affair(inception: FeatureNetwork) -> None:
    images = pictures(9, 8)
    together = inception(images)
    torch.testing.assert_close(
        inception(images[8:]).pooled, together.pooled[8:], rtol=1e-6, atol=1e-6
    )
    assert (together.pooled[0] - together.pooled[8]).abs().max() > 0.01


def test_gray_images_are_shown_as_colour(resnet: FeatureNetwork) -> None:
    gray = pictures(3, 32, channels=1)
    assert_equal(resnet(gray), resnet(gray.expand(-1, -1, -1, 3).contiguous()))


def test_the_network_sees_normalised_pixels(tmp_path: Path) -> None:
    path = save_resnet(tmp_path / "own.safetensors")
    network = CifarResNet(num_blocks=1, width=4, num_classes=3)
    network.load_state_dict(load_file(path))
    images = pictures(2, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((images / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = network.eval()(x)
    found = load(path)(images)
    torch.testing.assert_close(found.pooled, expected.pooled, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-4)


def test_no_images_have_no_features(resnet: FeatureNetwork) -> None:
    assert resnet(pictures(0, 32)).pooled.shape == (0, 64)


def test_bfloat16_is_near_float32(resnet: FeatureNetwork) -> None:
    images = pictures(16, 32)
    exact, rough = resnet(images), load(SHIPPED, dtype="bfloat16")(images)
    error = (rough.pooled - exact.pooled).norm() / exact.pooled.norm()
    assert 1e-5 < float(error) < 0.03


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_keep_every_bit_of_the_last_layer(
    tmp_path: Path, dtype: ExtractorDtype
) -> None:
    # In bfloat16, 1 + 2^-10 is 1.
    path = save_resnet(tmp_path / "own.safetensors", bias=1 + 2**-10)
    without = save_resnet(tmp_path / "other.safetensors", bias=0.0)
    images = pictures(2, 32)
    found, plain = load(path, dtype=dtype)(images), load(without, dtype=dtype)(images)
    assert found.logits is not None
    assert plain.logits is not None
    shift = found.logits - plain.logits
    torch.testing.assert_close(shift, torch.full_like(shift, 1 + 2**-10))


@pytest.mark.parametrize(("size", "channels"), [(31, 3), (64, 3), (32, 4), (32, 2)])
def test_images_that_do_not_fit_are_refused(
    resnet: FeatureNetwork, size: int, channels: int
) -> None:
    with pytest.raises(EvaluationFailed, match=str(size)):
        resnet(pictures(1, size, channels=channels))


def test_images_without_pixels_are_refused(inception: FeatureNetwork) -> None:
    with pytest.raises(EvaluationFailed, match="0x0"):
        inception(pictures(1, 0))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_features_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    network = load(save_resnet(tmp_path / "own.safetensors", bias=value))
    with pytest.raises(EvaluationFailed, match="not finite"):
        network(pictures(1, 32))


def test_other_weights_than_planned_are_refused(tmp_path: Path) -> None:
    path = save_resnet(tmp_path / "own.safetensors")
    planned = inspect_extractor(path, dtype="float32")
    assert load_extractor(path, device=CPU, expected=planned).info == planned
    save_resnet(path, bias=1.0)
    with pytest.raises(ExtractorUnavailable, match="planned"):
        load_extractor(path, device=CPU, expected=planned)


def test_another_type_than_planned_is_refused(tmp_path: Path) -> None:
    path = save_resnet(tmp_path / "own.safetensors")
    planned = inspect_extractor(path, dtype="bfloat16")
    with pytest.raises(ExtractorUnavailable, match="planned"):
        load_extractor(path, device=CPU, expected=planned)


def test_an_inception_with_a_tensor_of_another_name_is_refused(
    inception_file: Path, tmp_path: Path
) -> None:
    tensors = load_file(inception_file)
    tensors["Mixed_6b.odd"] = tensors.pop("Mixed_6b.branch7x7_2.bn.bias")
    save_file(tensors, tmp_path / "odd.safetensors")
    with pytest.raises(ExtractorUnavailable, match="not all the tensors"):
        load(tmp_path / "odd.safetensors")


def test_a_pickle_is_not_read_whatever_its_name(tmp_path: Path) -> None:
    for name in ("weights.pth", "weights.safetensors"):
        torch.save({"fc.bias": torch.zeros(1)}, tmp_path / name)
        with pytest.raises(ExtractorUnavailable):
            load(tmp_path / name)


def test_loading_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    load(SHIPPED)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("path", "accuracy"),
    [
        (SHIPPED, 0.84),
        (SHARED / "resnet20-cifar10" / "model.safetensors", 0.90),
    ],
    ids=["ours", "resnet20"],
)
def test_classifiers_know_cifar_10(path: Path, accuracy: float) -> None:
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not here")
    with np.load(SHARED / "cifar10" / "test.npz") as data:
        images = torch.from_numpy(data["images"][:1000])
        labels = torch.from_numpy(data["labels"][:1000])
    logits = load(path)(images).logits
    assert logits is not None
    assert float((logits.argmax(1) == labels).float().mean()) > accuracy

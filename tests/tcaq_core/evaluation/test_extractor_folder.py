import hashlib
import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tcaq_core.errors import ExtractorUnavailable
from tcaq_core.evaluation.architectures import resnet_shapes
from tcaq_core.evaluation.extractor_folder import (
    fetch_extractor,
    find_extractor,
    inspect_extractor,
)
from tcaq_core.evaluation.inception import InceptionV3
from tcaq_core.evaluation.protocols import INCEPTION, SMALL_CLASSIFIER
from tcaq_core.evaluation.record import ExtractorInfo

SHIPPED = Path(__file__).resolve().parents[3] / "evaluation" / "extractors"
CONFIG: dict[str, Any] = {
    "architecture": "cifar-resnet",
    "name": "mine",
    "mean": [0.5, 0.4, 0.3],
    "std": [0.25, 0.25, 0.2],
    "image_size": 16,
    "trained_by": "me",
}


def save_resnet(path: Path, *, dtype: torch.dtype = torch.float32) -> None:
    shapes = resnet_shapes(num_blocks=1, width=4, num_classes=5)
    counters = {"bn1.num_batches_tracked": torch.tensor(7)}
    save_file(
        {k: torch.zeros(shape, dtype=dtype) for k, shape in shapes.items()} | counters,
        path,
    )


def save_header(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Write a float32 file whose tensors are a hole: all that inspection reads."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + end)


@pytest.fixture(name="directory")
def make_directory(tmp_path: Path) -> Path:
    folder = tmp_path / "extractors" / "mine"
    folder.mkdir(parents=True)
    save_resnet(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder.parent


def find(name: str, directory: Path, *, weights: str | None = None) -> ExtractorInfo:
    return find_extractor(
        name, directory=directory, inception_weights=weights, dtype="float32"
    )


def test_a_folder_is_found_by_name(directory: Path) -> None:
    info = find("mine", directory)
    raw = (directory / "mine" / "model.safetensors").read_bytes()
    assert info == ExtractorInfo(
        name="mine",
        weights_sha256=hashlib.sha256(raw).hexdigest(),
        layer="avgpool",
        num_features=16,
        num_spatial=7 * 4 * 4,
        num_classes=5,
        resize="none",
        image_size=16,
        mean=(0.5, 0.4, 0.3),
        std=(0.25, 0.25, 0.2),
    )
    path = fetch_extractor(
        "mine", directory=directory, inception_weights=None, cache=directory / "cache"
    )
    assert inspect_extractor(path, dtype="float32") == info
    assert inspect_extractor(path / "model.safetensors", dtype="float32") == info


def test_the_type_is_part_of_the_record(directory: Path) -> None:
    info = inspect_extractor(directory / "mine", dtype="bfloat16")
    assert info.dtype == "bfloat16"
    assert info != find("mine", directory)


def test_a_bare_file_is_named_by_its_stem_and_sees_imagenet_s_normalisation(
    directory: Path,
) -> None:
    save_resnet(directory / "other.safetensors", dtype=torch.float16)
    info = find("other", directory)
    assert info == inspect_extractor(directory / "other.safetensors", dtype="float32")
    assert (info.name, info.image_size, info.num_spatial) == ("other", 32, 448)
    assert info.mean == (0.485, 0.456, 0.406)
    assert info.std == (0.229, 0.224, 0.225)


def test_a_bare_model_file_is_named_by_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "resnet8"
    folder.mkdir()
    save_resnet(folder / "model.safetensors")
    info = inspect_extractor(folder / "model.safetensors", dtype="float32")
    assert info.name == "resnet8"


def test_an_inception_of_one_s_own_has_its_own_name(tmp_path: Path) -> None:
    with torch.device("meta"):
        state = InceptionV3().state_dict()
    shapes = {k: tuple(v.shape) for k, v in state.items() if "num_batches" not in k}
    save_header(tmp_path / "my-inception.safetensors", shapes)
    info = find("my-inception", tmp_path)
    assert info.name == "my-inception"
    assert (info.num_features, info.num_spatial, info.num_classes) == (2048, 2023, 1008)
    assert info.resize == "tf1-bilinear-no-antialias"
    assert info.image_size is None
    (tmp_path / "my-inception.safetensors").rename(
        tmp_path / f"{INCEPTION}.safetensors"
    )
    with pytest.raises(ExtractorUnavailable, match="canonical weights alone"):
        inspect_extractor(tmp_path / f"{INCEPTION}.safetensors", dtype="float32")


def test_the_fid_network_is_never_looked_for_among_the_folders(
    directory: Path,
) -> None:
    shutil.copytree(directory / "mine", directory / INCEPTION)
    with pytest.raises(ExtractorUnavailable, match="TCAQ_INCEPTION_WEIGHTS"):
        find(INCEPTION, directory)


def test_the_fid_network_s_weights_are_compared_with_their_hash(
    directory: Path,
) -> None:
    path = directory / "pt_inception-2015-12-05-6726825d.pth"
    torch.save({}, path)
    with pytest.raises(ExtractorUnavailable, match="its sha256 is"):
        find(INCEPTION, directory, weights=str(path))
    with pytest.raises(ExtractorUnavailable, match="its sha256 is"):
        inspect_extractor(path, dtype="float32")


def test_the_fid_network_behind_a_url_has_the_canonical_record(
    directory: Path,
) -> None:
    info = find(INCEPTION, directory, weights="https://host.invalid/weights")
    assert info.name == INCEPTION
    assert info.weights_sha256.startswith("6726825d")
    assert [255 * x for x in info.mean] == [128.0] * 3
    assert info.mean == info.std


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../extractors/mine", "/etc", "mine/", "mine\n", "a\x00", "-a"],
)
def test_no_name_reaches_outside_the_directory(directory: Path, name: str) -> None:
    with pytest.raises(ExtractorUnavailable):
        find(name, directory)
    with pytest.raises(ExtractorUnavailable):
        fetch_extractor(
            name, directory=directory, inception_weights=None, cache=directory
        )


def test_a_link_out_of_the_directory_is_not_followed(
    directory: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    shutil.copytree(directory / "mine", outside)
    (directory / "outside").symlink_to(outside)
    with pytest.raises(ExtractorUnavailable, match="no extractor named"):
        find("outside", directory)


def test_an_unknown_name_lists_the_known_ones(directory: Path) -> None:
    save_resnet(directory / "bare.safetensors")
    with pytest.raises(ExtractorUnavailable) as refused:
        find("other", directory)
    assert refused.value.hint == f"Use one of: bare, {INCEPTION}, mine."


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"std": [0.2, 0.0, 0.2]}, "std"),
        ({"mean": [0.5]}, "mean"),
        ({"mean": None}, "mean"),
        ({"image_size": 30}, "image_size"),
        ({"image_size": 10**9}, "image_size"),
        ({"architecture": "vgg"}, "architecture"),
        ({"name": "other"}, "'other'"),
    ],
)
def test_a_config_that_says_something_else_is_refused(
    directory: Path, change: dict[str, Any], reason: str
) -> None:
    (directory / "mine" / "config.json").write_text(json.dumps(CONFIG | change))
    with pytest.raises(ExtractorUnavailable, match=reason):
        find("mine", directory)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"mean": [NaN, 0, 0]}', "[" * 10**5])
def test_a_config_that_is_no_json_object_is_refused(directory: Path, text: str) -> None:
    (directory / "mine" / "config.json").write_text(text)
    with pytest.raises(ExtractorUnavailable, match=r"config\.json"):
        find("mine", directory)


def test_a_folder_without_its_config_is_refused(directory: Path) -> None:
    (directory / "mine" / "config.json").unlink()
    with pytest.raises(ExtractorUnavailable, match=r"no config\.json"):
        find("mine", directory)


def test_damaged_weights_are_refused(directory: Path) -> None:
    weights = directory / "mine" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ExtractorUnavailable, match="truncated"):
        find("mine", directory)


def test_weights_of_another_type_are_refused(directory: Path) -> None:
    save_resnet(directory / "codes.safetensors", dtype=torch.int8)
    with pytest.raises(ExtractorUnavailable, match="I8"):
        find("codes", directory)


def test_another_network_is_refused_with_what_is_taken(directory: Path) -> None:
    save_file({"w": torch.zeros(1)}, directory / "vgg.safetensors")
    with pytest.raises(ExtractorUnavailable, match="no network") as refused:
        find("vgg", directory)
    assert "layer1.0.conv1" in refused.value.hint


@pytest.mark.parametrize("name", ["missing", "missing.safetensors", "missing.pth"])
def test_a_path_without_a_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ExtractorUnavailable, match="cannot be read"):
        inspect_extractor(tmp_path / name, dtype="float32")


def test_the_shipped_classifier_is_small_and_complete() -> None:
    info = find(SMALL_CLASSIFIER, SHIPPED)
    assert (info.num_features, info.num_classes, info.image_size) == (64, 10, 32)
    assert (SHIPPED / SMALL_CLASSIFIER / "model.safetensors").stat().st_size < 10**6
    assert "Apache-2.0" in (SHIPPED / SMALL_CLASSIFIER / "README.md").read_text()

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tcaq_core.errors import ReferenceUnusable
from tcaq_core.evaluation.images import open_images
from tcaq_core.evaluation.record import ReferenceInfo
from tcaq_core.evaluation.reference import make_reference
from tcaq_core.evaluation.reference_file import (
    METADATA_KEY,
    find_reference,
    known_references,
    read_reference,
    tensors_of,
)
from tests.tcaq_core.evaluation.picture_files import pixels, save_npz
from tests.tcaq_core.evaluation.seeded_extractor import SeededExtractor

DTYPES = {"F64": torch.float64, "F32": torch.float32}


@pytest.fixture
def info() -> dict[str, Any]:
    network = SeededExtractor().info.model_dump()
    return {
        "name": "tiny",
        "n": 30,
        "image_size": (8, 8),
        "images_sha256": "0" * 64,
        "extractor": network,
        "has_spatial": True,
        "has_features": False,
    }


def save(path: Path, info: object, *, like: ReferenceInfo) -> Path:
    tensors = {
        name: torch.zeros(stored.shape, dtype=DTYPES[stored.dtype])
        for name, stored in tensors_of(like).items()
    }
    save_file(tensors, path, metadata={METADATA_KEY: json.dumps(info)})
    return path


def refused(path: Path, words: str) -> None:
    with pytest.raises(ReferenceUnusable, match=words) as caught:
        read_reference(path)
    assert path.name in caught.value.detail
    assert "\n" not in caught.value.detail
    assert "tcaq reference" in caught.value.hint


def test_a_reference_is_found_by_name_in_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "references"
    folder.mkdir()
    path = folder / "cifar10-train.safetensors"
    path.write_bytes(b"")
    (folder / "notes.txt").write_bytes(b"")
    (folder / ".hidden.safetensors").write_bytes(b"")
    assert find_reference("cifar10-train", directory=tmp_path) == path
    assert known_references(tmp_path) == ("cifar10-train",)


@pytest.mark.parametrize(
    "name",
    [
        "other",
        "",
        ".",
        "..",
        "../outside",
        "a/b",
        "/etc/passwd",
        "x\0y",
        "out",
        "a" * 65,
    ],
)
def test_no_other_file_can_be_named(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "references"
    folder.mkdir()
    (folder / "known.safetensors").write_bytes(b"")
    (tmp_path / "outside.safetensors").write_bytes(b"")
    (folder / "out.safetensors").symlink_to(tmp_path / "outside.safetensors")
    (folder / f"{'a' * 65}.safetensors").write_bytes(b"")
    with pytest.raises(ReferenceUnusable) as caught:
        find_reference(name, directory=tmp_path)
    assert "known" in caught.value.hint
    assert "tcaq reference" in caught.value.hint


def test_without_any_reference_the_hint_says_so(tmp_path: Path) -> None:
    with pytest.raises(ReferenceUnusable) as caught:
        find_reference("cifar10-train", directory=tmp_path)
    assert "(none)" in caught.value.hint


def test_a_header_is_all_that_is_needed(tmp_path: Path, info: dict[str, Any]) -> None:
    expected = ReferenceInfo.model_validate(info)
    path = save(tmp_path / "a.safetensors", info, like=expected)
    assert read_reference(path).info == expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n": 1}, "n"),
        ({"name": "../x"}, "name"),
        ({"images_sha256": "no"}, "images_sha256"),
        ({"unknown": 1}, "unknown"),
        ({"extractor": None}, "extractor"),
        ({"n": 6}, "6 images say too little"),
        ({"has_features": True}, "tensors are not those"),
        ({"has_spatial": False}, "tensors are not those"),
    ],
)
def test_a_header_that_lies_is_refused(
    tmp_path: Path, info: dict[str, Any], change: dict[str, Any], words: str
) -> None:
    like = ReferenceInfo.model_validate(info)
    path = save(tmp_path / "a.safetensors", info | change, like=like)
    refused(path, words)


def test_tensors_of_another_size_are_refused(
    tmp_path: Path, info: dict[str, Any]
) -> None:
    like = ReferenceInfo.model_validate(info)
    info["extractor"] = info["extractor"] | {"num_features": 7}
    refused(save(tmp_path / "a.safetensors", info, like=like), "tensors are not those")


def test_files_that_are_not_ours_are_refused(
    tmp_path: Path, info: dict[str, Any]
) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(2)}, path)
    refused(path, "not one of ours")
    path.write_bytes(b"text")
    refused(path, "no safetensors file")
    save(path, info, like=ReferenceInfo.model_validate(info))
    path.write_bytes(path.read_bytes()[:-8])
    refused(path, "bytes where it declares")
    path.unlink()
    refused(path, "No such file")


def test_a_hash_is_remembered_until_the_file_changes(
    tmp_path: Path, info: dict[str, Any]
) -> None:
    like = ReferenceInfo.model_validate(info)
    path = save(tmp_path / "a.safetensors", info, like=like)
    first = read_reference(path)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(raw)
    os.utime(path, ns=(times[0], times[1] + 1))
    assert read_reference(path).stats_sha256 != first.stats_sha256
    path.unlink()
    save(path, info | {"name": "tina"}, like=like)
    os.utime(path, ns=times)
    assert read_reference(path).info.name == "tina"


def test_a_file_of_make_reference_is_read(tmp_path: Path) -> None:
    images = open_images(save_npz(tmp_path / "a.npz", images=pixels(9)))
    path = tmp_path / "a.safetensors"
    used = make_reference(
        images, SeededExtractor(), path, name="a", progress=lambda *_: None
    )
    assert read_reference(path) == used


def test_the_service_can_look_without_torch() -> None:
    code = (
        "import sys, tcaq_core.evaluation.reference_file, tcaq_core.evaluation.check;"
        "print({'torch', 'numpy', 'safetensors', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"

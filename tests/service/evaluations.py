"""A feature network and reference statistics made by hand: right headers, zeros."""

import json
import struct
from pathlib import Path
from typing import Any, Final

from tcaq_core.evaluation.architectures import resnet_shapes
from tcaq_core.evaluation.extractor_folder import find_extractor
from tcaq_core.evaluation.record import ExtractorInfo, ReferenceInfo
from tcaq_core.evaluation.reference_file import METADATA_KEY, tensors_of
from tcaq_core.evaluation.tensor_file import Stored

NETWORK: Final = "tiny-net"
REFERENCE: Final = "tiny-train"
NUM_REFERENCE_IMAGES: Final = 120
QUICK: Final[dict[str, Any]] = {
    "protocol": "quick",
    "extractor": NETWORK,
    "reference": REFERENCE,
    "num_images": 100,
}
"""What the model ``tiny`` (16 x 16) can be evaluated by."""


def make_evaluation_folder(folder: Path) -> None:
    """Write the network ``tiny-net`` and the reference ``tiny-train``."""
    make_network(folder / "extractors" / NETWORK)
    make_reference(folder, REFERENCE, extractor=network(folder))


def make_network(folder: Path, *, image_size: int = 16) -> None:
    """Write a small ResNet for images of that side."""
    folder.mkdir(parents=True)
    config = {
        "architecture": "cifar-resnet",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "image_size": image_size,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shapes = resnet_shapes(num_blocks=1, width=4, num_classes=10)
    tensors = {name: Stored("F32", shape) for name, shape in shapes.items()}
    _write(folder / "model.safetensors", tensors)


def make_reference(
    folder: Path,
    name: str,
    *,
    extractor: ExtractorInfo,
    side: int = 16,
    has_features: bool = True,
) -> Path:
    """Write the statistics of 120 images and return their file."""
    info = ReferenceInfo(
        name=name,
        n=NUM_REFERENCE_IMAGES,
        image_size=(side, side),
        images_sha256="a" * 64,
        extractor=extractor,
        has_spatial=True,
        has_features=has_features,
    )
    path = folder / "references" / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    _write(path, tensors_of(info), metadata={METADATA_KEY: info.model_dump_json()})
    return path


def network(folder: Path, name: str = NETWORK) -> ExtractorInfo:
    """Return what an evaluation folder's network is."""
    return find_extractor(
        name, directory=folder / "extractors", inception_weights=None, dtype="float32"
    )


def score(extractor: ExtractorInfo, **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the record of a Frechet distance, as a worker writes it."""
    return {
        "metric": "fd",
        "label": f"FD-{extractor.name}",
        "value": 12.5,
        "ci95": [12.0, 13.0],
        "ci95_method": "jackknife",
        "protocol": {"name": "quick", "changed": ["num_images"]},
        "n_generated": 100,
        "reference": None,
        "features": extractor.model_dump(mode="json"),
        "images": {
            "dtype": "uint8",
            "rounding": "nearest",
            "format": "none",
            "manifest_sha256": "b" * 64,
            "subject": {"checkpoint": "c" * 64},
            "batch_size": 50,
        },
        "sampler": {"num_steps": 50, "schedule": "uniform", "eta": 0.0},
        "seeds": {"base": 0, "scheme": "per-image"},
        "execution": "integer",
        "implementation": {"package": "tcaq", "version": "0.1.0"},
        "environment_digest": "c" * 64,
        "baseline": {
            "value": 10.25,
            "ci95": None,
            "delta": 2.25,
            "delta_ci95": [2.0, 2.5],
            "same_seeds": True,
            "subject": {"model": "d" * 64},
            "manifest_sha256": "e" * 64,
        },
        "notes": ["Few images."],
        **changes,
    }


def _write(
    path: Path, tensors: dict[str, Stored], *, metadata: dict[str, str] | None = None
) -> None:
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.size_bytes
        header[name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))

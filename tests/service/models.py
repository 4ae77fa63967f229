"""Small model folders made by hand: headers that are right, weights of zeros."""

import json
import struct
from pathlib import Path
from typing import Any

W4A8: dict[str, Any] = {"model": "tiny", "weight_bits": 4, "activation_bits": 8}
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def make_model(folder: Path, *, denoiser: str = "UNet2DModel") -> Path:
    """Write a pipeline folder with one 2x3 float32 tensor and return it."""
    (folder / "unet").mkdir(parents=True)
    (folder / "scheduler").mkdir()
    scheduler = folder / "scheduler" / "scheduler_config.json"
    _write(scheduler, {"_class_name": "DDPMScheduler"})
    _write(folder / "model_index.json", {"_class_name": "DDPMPipeline"})
    config = {"_class_name": denoiser, "sample_size": 16, "in_channels": 3}
    _write(folder / "unet" / "config.json", config)
    (folder / WEIGHTS).write_bytes(safetensors())
    return folder


def safetensors() -> bytes:
    """Return a file with the tensor ``w``, 2x3 float32 zeros."""
    header = {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(24)


def make_pickled_model(folder: Path) -> Path:
    """Write a pipeline folder whose weights are a pickle, and return it."""
    make_model(folder)
    (folder / WEIGHTS).unlink()
    # Bytes that would raise if anything unpickled them.
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04cos\n")
    return folder


def make_truncated_model(folder: Path) -> Path:
    """Write a pipeline folder whose weights are one byte short, and return it."""
    make_model(folder)
    (folder / WEIGHTS).write_bytes(safetensors()[:-1])
    return folder


def _write(path: Path, document: dict[str, object]) -> None:
    path.write_text(json.dumps(document), encoding="utf-8")

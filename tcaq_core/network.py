"""A denoiser's layers and the feature maps they run on, from file headers; torch-free.

The names and shapes of a UNet2DModel's weights say where each layer stands: a level
of resolution begins where a block has a down- or upsampler.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tcaq_core.model_folder import (
    ModelFolder,
    inspect_model_folder,
    read_safetensors_header,
)

# The names that attention projections had in the first pipelines on the hub.
_OLD_NAMES: Final[Mapping[str, str]] = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}
_BLOCK: Final = re.compile(r"(.*\.(?:resnets|attentions)\.\d+|time_embedding)\.")
_SAMPLERS: Final = (".downsamplers.", ".upsamplers.")


@dataclass(frozen=True)
class LayerShape:
    """A convolution or linear layer and how often it is applied for one image."""

    name: str
    shape: tuple[int, ...]
    """Of the weight: output channels, input channels, kernel."""
    positions: int
    """Pixels or tokens of its output."""
    input_positions: int

    @property
    def weights(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def multiplications(self) -> int:
        """Multiplications for one image."""
        return self.weights * self.positions

    @property
    def inputs(self) -> int:
        """Values of its input for one image."""
        return self.shape[1] * self.input_positions

    @property
    def outputs(self) -> int:
        """Values of its output for one image."""
        return self.shape[0] * self.positions

    @property
    def block(self) -> str:
        """The unit of reconstruction that it belongs to (see `blocks`)."""
        found = _BLOCK.match(self.name)
        return found[1] if found else self.name


@dataclass(frozen=True)
class AttentionShape:
    """A self-attention over `tokens` positions."""

    tokens: int
    channels: int
    heads: int

    @property
    def map_values(self) -> int:
        """Values of the post-softmax map for one image."""
        return self.heads * self.tokens * self.tokens

    @property
    def multiplications(self) -> int:
        """Multiplications of q with k and of the map with v."""
        return 2 * self.tokens * self.tokens * self.channels


@dataclass(frozen=True)
class Network:
    """What a denoiser computes for one image."""

    layers: Mapping[str, LayerShape]
    attentions: Mapping[str, AttentionShape]
    others: Mapping[str, tuple[int, ...]]
    """Shapes of all other parameters by name: biases and norms."""
    dtypes: Mapping[str, str]
    """Types of all parameters in the model's own file, as ``F16``."""
    image_channels: int
    image_values: int
    """Channels times pixels of what is denoised."""

    @property
    def multiplications(self) -> int:
        """Multiplications of one evaluation on one image."""
        layers = sum(layer.multiplications for layer in self.layers.values())
        return layers + sum(a.multiplications for a in self.attentions.values())

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        others = sum(math.prod(shape) for shape in self.others.values())
        return others + sum(layer.weights for layer in self.layers.values())

    def blocks(self) -> dict[str, list[LayerShape]]:
        """Return the layers by unit of reconstruction."""
        found: dict[str, list[LayerShape]] = {}
        for layer in self.layers.values():
            found.setdefault(layer.block, []).append(layer)
        return found


def read_network(folder: Path) -> Network:
    """Return the denoiser of a diffusers pipeline folder.

    Raises:
        TCAQError: as `inspect_model_folder`.
    """
    found = inspect_model_folder(folder)
    header = read_safetensors_header(found.weights)
    tensors = {_today(name): tensor for name, tensor in header.items()}
    weights = {
        name.removesuffix(".weight"): tensor.shape
        for name, tensor in tensors.items()
        if name.endswith(".weight") and len(tensor.shape) in {2, 4}
    }
    size, head = _sizes(found)
    areas = _areas(size, weights)
    layers = {name: _layer(name, shape, areas) for name, shape in weights.items()}
    attentions = {
        layer.block: AttentionShape(
            tokens=layer.positions,
            channels=layer.shape[0],
            heads=max(1, layer.shape[0] // (head or layer.shape[0])),
        )
        for name, layer in layers.items()
        if name.endswith(".to_q")
    }
    others = {
        name: tensor.shape
        for name, tensor in tensors.items()
        if name.removesuffix(".weight") not in weights
    }
    return Network(
        layers=layers,
        attentions=attentions,
        others=others,
        dtypes={name: tensor.dtype for name, tensor in tensors.items()},
        image_channels=found.in_channels,
        image_values=found.in_channels * math.prod(size),
    )


def _today(name: str) -> str:
    for old, new in _OLD_NAMES.items():
        name = name.replace(old, new)
    return name


def _sizes(found: ModelFolder) -> tuple[tuple[int, int], int | None]:
    path = found.weights.parent / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    size, head = config["sample_size"], config.get("attention_head_dim", 8)
    height, width = size if isinstance(size, list) else (size, size)
    return (int(height), int(width)), None if head is None else int(head)


def _areas(
    size: tuple[int, int], weights: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, int]]:
    """Return, by block, the pixels before its sampler and after it."""
    blocks = dict.fromkeys(
        match[0]
        for name in weights
        if (match := re.match(r"\w+_blocks?(\.\d+)?", name))
    )
    down = sorted((b for b in blocks if b.startswith("down")), key=_number)
    up = sorted((b for b in blocks if b.startswith("up")), key=_number)
    (height, width), areas = size, {"": (math.prod(size), math.prod(size))}
    sizes = [size]
    for block in down:
        before = height * width
        if any(name.startswith(f"{block}.downsamplers") for name in weights):
            height, width = -(-height // 2), -(-width // 2)
            sizes.append((height, width))
        areas[block] = before, height * width
    areas["mid_block"] = height * width, height * width
    for block in up:
        before = math.prod(sizes[-1])
        if any(name.startswith(f"{block}.upsamplers") for name in weights):
            sizes = sizes[:-1] or sizes
        areas[block] = before, math.prod(sizes[-1])
    return areas


def _number(block: str) -> int:
    return int(block.rpartition(".")[2])


def _layer(
    name: str, shape: tuple[int, ...], areas: Mapping[str, tuple[int, int]]
) -> LayerShape:
    if name.startswith("time_embedding") or name.endswith("time_emb_proj"):
        return LayerShape(name, shape, 1, 1)
    match = re.match(r"mid_block|\w+_blocks\.\d+", name)
    before, after = areas[match[0] if match else ""]
    if not any(part in name for part in _SAMPLERS):
        return LayerShape(name, shape, before, before)
    # An upsampler enlarges its input first; a downsampler's kernel skips positions.
    given = after if ".upsamplers." in name else before
    return LayerShape(name, shape, after, given)

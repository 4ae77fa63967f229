"""Save and load: a flat diffusers folder with packed weights and a manifest.

    checkpoint/
    ├── manifest.json                         schema, recipe, hashes
    ├── model_index.json                      as in the original
    ├── scheduler_config.json                 as in the original
    ├── config.json                           the original's and quantization_config
    └── diffusion_pytorch_model.safetensors   packed codes, grids, the rest

Everything lies at the root, as in the first pipelines on the hub: diffusers then opens
the same folder as a pipeline and as a UNet2DModel (`tcaq_core.integrations.diffusers`).
Loading never unpickles and never needs the original model.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import DDIMPipeline, UNet2DModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.difference import forget_trajectory
from tcaq_core.diffusion import CONFIG, INDEX, SCHEDULER, Pipeline, assemble
from tcaq_core.errors import CheckpointShapeMismatch, ModelUnsupported
from tcaq_core.manifest import DenoiserConfig, Description, Manifest, check_schema
from tcaq_core.model_folder import WEIGHTS_NAME
from tcaq_core.recipe import Recipe
from tcaq_core.runtime.grid_book import GridBook
from tcaq_core.state import digest_of, load_state, state_of
from tcaq_core.structure import structure_of
from tcaq_core.temporal import cached_steps

WEIGHTS: Final = WEIGHTS_NAME
PLACES: Final = {name: Path(name).name for name in (INDEX, SCHEDULER, CONFIG)}
"""Where a checkpoint keeps the JSON files of a pipeline."""
METADATA: Final = {"format": "tcaq-packed"}
"""Of the weight file. One entry: the file format does not order them."""


@dataclass(frozen=True)
class Checkpoint:
    """A reloaded pipeline that samples with its quantized denoiser."""

    pipeline: Pipeline
    denoiser: QuantizedDenoiser
    manifest: Manifest


def save(
    folder: Path,
    pipeline: Pipeline,
    denoiser: QuantizedDenoiser,
    recipe: Recipe,
    *,
    model: dict[str, Any],
    environment: dict[str, Any],
) -> Manifest:
    """Write a quantized pipeline to a new folder and return its manifest.

    Raises:
        ValueError: its denoiser executes on integer kernels, which hold no codes.
    """
    if any(isinstance(module, GridBook) for module in denoiser.unet.modules()):
        raise ValueError("save a denoiser before it is compiled")
    folder.mkdir(parents=True, exist_ok=True)
    for name in (INDEX, SCHEDULER):
        (folder / PLACES[name]).write_bytes(pipeline.files[name].read_bytes())
    state = state_of(denoiser)
    save_file(state, folder / WEIGHTS, metadata=METADATA)
    description = Description(
        recipe=recipe,
        structure=structure_of(denoiser),
        num_timesteps=denoiser.num_timesteps,
    )
    _write_config(folder / PLACES[CONFIG], pipeline.files[CONFIG], state, description)
    manifest = Manifest(
        recipe=recipe,
        recipe_digest=recipe.digest(),
        model=model,
        environment=environment,
        pipeline="DDIMPipeline"
        if isinstance(pipeline.inner, DDIMPipeline)
        else "DDPMPipeline",
        structure=description.structure,
        files={name: _sha256(folder / name) for name in (*PLACES.values(), WEIGHTS)},
        denoiser_bytes=(folder / WEIGHTS).stat().st_size,
        float32_bytes=4 * denoiser.num_parameters,
    )
    text = manifest.model_dump_json(indent=1)
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")
    return manifest


def load(folder: Path, *, device: torch.device) -> Checkpoint:
    """Load a checkpoint folder for sampling.

    Raises:
        ModelUnsupported: no manifest, or one of another schema version.
        CheckpointShapeMismatch: a file or tensor is missing, damaged or altered.
    """
    manifest = read_manifest(folder)
    if set(manifest.files) != {*PLACES.values(), WEIGHTS}:
        raise CheckpointShapeMismatch(
            f"The manifest describes {sorted(manifest.files)}, not the files of a "
            "checkpoint.",
            hint="Download the checkpoint again.",
        )
    for name, expected in manifest.files.items():
        if not _is_inside(folder, name) or _sha256(folder / name) != expected:
            raise CheckpointShapeMismatch(
                f"{name} is missing or not the file that the manifest describes.",
                hint="Download the checkpoint again.",
            )
    config = UNet2DModel.load_config(folder)
    # It describes the file, not the network that is built here.
    config.pop("quantization_config", None)
    unet = UNet2DModel.from_config(config)
    files = {name: folder / place for name, place in PLACES.items()}
    pipeline = assemble(files, unet, pipeline=manifest.pipeline, device=device)
    denoiser = QuantizedDenoiser(
        unet, manifest.recipe, num_timesteps=pipeline.num_timesteps
    )
    try:
        state = load_file(folder / WEIGHTS, device=str(device))
        load_state(denoiser, state, manifest.structure)
    except (KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointShapeMismatch(
            f"The packed weights do not fit the manifest: {error}",
            hint="Download the checkpoint again.",
        ) from error
    return Checkpoint(pipeline, denoiser, manifest)


def read_manifest(folder: Path) -> Manifest:
    """Return a folder's manifest.

    Raises:
        ModelUnsupported: absent, malformed, or of another schema version.
    """
    try:
        data = dict(json.loads((folder / "manifest.json").read_text(encoding="utf-8")))
        check_schema(data, what="The checkpoint")
        return Manifest.model_validate(data)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ModelUnsupported(
            f"{folder.name} has no readable manifest.json.",
            hint="A checkpoint is the folder that a quantize job produced.",
        ) from error


@torch.no_grad()
def probe(pipeline: Pipeline, denoiser: QuantizedDenoiser | None = None) -> str:
    """Return the hex SHA-256 of the denoiser's outputs on a fixed, seeded probe.

    Two samples at each of four timesteps: equal digests mean bit-equal outputs. A
    quantized denoiser that knows sampler steps is probed at four of those: with cached
    temporal features it has no others.
    """
    generator = torch.Generator().manual_seed(0)
    device = pipeline.denoiser.device
    # What was sampled before must not show in the digest.
    forget_trajectory(pipeline.denoiser)
    digest = hashlib.sha256()
    for t in _probed_timesteps(pipeline, denoiser):
        x_t = torch.randn((2, *pipeline.image_shape), generator=generator).to(device)
        timesteps = torch.full((2,), t, device=device)
        eps: Tensor = pipeline.denoiser(x_t, timesteps, return_dict=False)[0]
        digest.update(eps.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def _probed_timesteps(
    pipeline: Pipeline, denoiser: QuantizedDenoiser | None
) -> tuple[int, ...]:
    steps = None
    if denoiser is not None:
        steps = cached_steps(denoiser) or denoiser.cursor.steps
    visited = steps.timesteps if steps else range(pipeline.num_timesteps)[::-1]
    last = len(visited) - 1
    return tuple(visited[i] for i in (0, last - 2 * last // 3, last - last // 3, last))


def _write_config(
    path: Path, original: Path, state: dict[str, Tensor], description: Description
) -> None:
    config = json.loads(original.read_text(encoding="utf-8"))
    packed = DenoiserConfig(**dict(description), sha256=digest_of(state, description))
    config["quantization_config"] = packed.model_dump(mode="json")
    text = json.dumps(config, indent=1, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


def _is_inside(folder: Path, name: str) -> bool:
    path = folder / name
    return path.is_file() and path.resolve().is_relative_to(folder.resolve())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

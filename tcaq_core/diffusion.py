"""Diffusers pipelines: load one, run its own sampler from given noise."""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    UNet2DModel,
)
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from tcaq_core.correction import calibrated_variance
from tcaq_core.difference import fresh_trajectory
from tcaq_core.errors import CheckpointShapeMismatch, ModelNotFound, ModelUnsupported
from tcaq_core.model_folder import WEIGHTS_NAME, HubModel, inspect_model_folder

INDEX = "model_index.json"
SCHEDULER = "scheduler/scheduler_config.json"
CONFIG = "unet/config.json"
PIPELINES = {"DDPMPipeline": DDPMPipeline, "DDIMPipeline": DDIMPipeline}
SCHEDULERS = {"DDPMScheduler": DDPMScheduler, "DDIMScheduler": DDIMScheduler}


@dataclass(frozen=True)
class Pipeline:
    """A diffusers pipeline with a UNet2DModel as denoiser, in float32."""

    inner: DDPMPipeline | DDIMPipeline
    files: Mapping[str, Path]
    """Where its three JSON files are: `INDEX`, `SCHEDULER` and `CONFIG`."""

    @property
    def denoiser(self) -> UNet2DModel:
        """The network that predicts the noise."""
        return self.inner.unet

    @property
    def num_timesteps(self) -> int:
        """Timesteps of the training schedule, usually 1000."""
        return int(self.inner.scheduler.config.num_train_timesteps)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what is denoised."""
        size = self.denoiser.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return int(self.denoiser.config.in_channels), int(height), int(width)


def load_pipeline(folder: Path, *, device: torch.device) -> Pipeline:
    """Load a diffusers folder in float32 for inference.

    Raises:
        ModelNotFound, ModelUnsupported, CheckpointUnsafe, CheckpointShapeMismatch:
            as `inspect_model_folder`, or weights that do not fit the config.
    """
    found = inspect_model_folder(folder)
    try:
        unet, info = UNet2DModel.from_pretrained(
            found.weights.parent,
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
            torch_dtype=torch.float32,
            output_loading_info=True,
        )
    except (RuntimeError, ValueError) as error:
        raise CheckpointShapeMismatch(
            f"The weights of {folder.name} do not fit its config.",
            hint="unet/config.json and the weights come from different models.",
        ) from error
    # Without this a lost tensor would be random numbers that nobody asked about.
    for kind in ("missing_keys", "unexpected_keys"):
        if names := info[kind]:
            raise CheckpointShapeMismatch(
                f"The weights of {folder.name} have {kind.replace('_', ' ')}: "
                f"{', '.join(sorted(names)[:3])}.",
                hint="unet/config.json and the weights come from different models.",
            )
    files = {
        INDEX: folder / INDEX,
        SCHEDULER: found.scheduler,
        CONFIG: found.weights.parent / "config.json",
    }
    return assemble(files, unet, pipeline=found.pipeline, device=device)


def assemble(
    files: Mapping[str, Path],
    unet: UNet2DModel,
    *,
    pipeline: str,
    device: torch.device,
) -> Pipeline:
    """Return the pipeline of a folder around a denoiser that is already there.

    Raises:
        ModelUnsupported: a scheduler other than `SCHEDULERS`.
    """
    config = json.loads(files[SCHEDULER].read_text(encoding="utf-8"))
    name = str(config.get("_class_name"))
    if name not in SCHEDULERS:
        raise ModelUnsupported(
            f"The scheduler is a {name}.", hint=f"Supported: {', '.join(SCHEDULERS)}."
        )
    unet = unet.to(device).eval().requires_grad_(False)
    scheduler = SCHEDULERS[name].from_config(config)
    inner = PIPELINES[pipeline](unet=unet, scheduler=scheduler)
    inner.set_progress_bar_config(disable=True)
    return Pipeline(inner=inner, files=files)


def fetch_hub_model(model: HubModel, *, cache: Path) -> Path:
    """Download a pinned hub model's JSON and safetensors files; return its folder.

    Raises:
        ModelNotFound: no such repository or revision, or the hub is unreachable.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415  (slow, rarely used)
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    try:
        return Path(
            snapshot_download(
                model.repo,
                revision=model.revision,
                cache_dir=cache,
                # Nothing else is needed: no variants, no other components.
                allow_patterns=[
                    INDEX,
                    SCHEDULER,
                    Path(SCHEDULER).name,
                    CONFIG,
                    Path(CONFIG).name,
                    f"unet/{WEIGHTS_NAME}",
                    WEIGHTS_NAME,
                ],
            )
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ModelNotFound(
            f"{model.repo}@{model.revision} could not be fetched from the hub.",
            hint="Check the id, the revision, and that the worker reaches the hub; "
            "or put the folder among the local models.",
        ) from error


def sample(
    pipeline: Pipeline,
    *,
    seeds: Sequence[int],
    num_steps: int,
    eta: float = 0.0,
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "N C H W"]:
    """Return images in [-1, 1] from the pipeline's own sampler.

    The noise of image i, initial and per step, is drawn from seeds[i] alone, so
    batching does not change it. `progress` receives (calls of the denoiser done, in
    all) after each of them.

    Raises:
        ModelUnsupported: more steps than the model's schedule has.
    """
    if num_steps > pipeline.num_timesteps:
        raise ModelUnsupported(
            f"{num_steps} steps were asked for; the model's schedule has "
            f"{pipeline.num_timesteps}.",
            hint=f"Sample with at most {pipeline.num_timesteps} steps.",
        )
    starts = range(0, len(seeds), batch_size)
    total = len(starts) * num_steps
    with counting_calls(
        pipeline.denoiser, lambda done: progress(done, total) if progress else None
    ):
        batches = [
            _sample_batch(
                pipeline,
                seeds[start : start + batch_size],
                num_steps=num_steps,
                eta=eta,
            )
            for start in starts
        ]
    return torch.cat(batches)


@contextmanager
def counting_calls(module: nn.Module, tell: Callable[[int], object]) -> Iterator[None]:
    """Call `tell(n)` after the n-th call of a module; what it raises comes out."""
    calls = itertools.count(1)

    def after(*_: object) -> None:
        tell(next(calls))

    handle = module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def _sample_batch(
    pipeline: Pipeline, seeds: Sequence[int], *, num_steps: int, eta: float
) -> Float[Tensor, "N C H W"]:
    device = pipeline.inner.device
    arguments: dict[str, Any] = {
        "batch_size": len(seeds),
        "num_inference_steps": num_steps,
        "generator": [torch.Generator(device).manual_seed(seed) for seed in seeds],
        "output_type": "np",
    }
    if isinstance(pipeline.inner, DDIMPipeline):
        arguments["eta"] = eta
    with fresh_trajectory(pipeline.denoiser), calibrated_variance(pipeline.inner):
        images = pipeline.inner(**arguments).images  # (N, H, W, C) in [0, 1]
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous() * 2 - 1


def to_uint8(images: Float[Tensor, "N C H W"]) -> UInt8[Tensor, "N H W C"]:
    """Map [-1, 1] to 0..255, rounding to nearest."""
    scaled = (images.clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()

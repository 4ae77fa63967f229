"""Images for an evaluation: DDIM as the protocol says, one seed an image."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from diffusers import DDIMPipeline, DDIMScheduler
from jaxtyping import UInt8
from torch import Tensor

from tcaq_core import diffusion
from tcaq_core.diffusion import Pipeline
from tcaq_core.errors import EvaluationFailed
from tcaq_core.evaluation.protocols import Sampling
from tcaq_core.quad_schedule import QuadDDIMScheduler

Tick = Callable[[], None]
"""Called at every evaluation of the denoiser; may raise `Interrupted`."""


@dataclass(frozen=True)
class Drawn:
    """Some images and which they are."""

    indices: range
    pixels: UInt8[Tensor, "N H W C"]


def with_ddim(pipeline: Pipeline, sampling: Sampling) -> Pipeline:
    """Return a pipeline of the same denoiser that samples as a protocol says."""
    kinds = {"quad": QuadDDIMScheduler, "uniform": DDIMScheduler}
    scheduler = kinds[sampling.schedule].from_config(pipeline.inner.scheduler.config)
    inner = DDIMPipeline(unet=pipeline.denoiser, scheduler=scheduler)
    # The pipeline makes a plain DDIM scheduler of whatever it is given.
    inner.scheduler = scheduler
    inner.set_progress_bar_config(disable=True)
    return Pipeline(inner=inner, files=pipeline.files)


def draw(
    pipeline: Pipeline,
    sampling: Sampling,
    *,
    images: range,
    seed: int,
    batch_size: int,
    tick: Tick,
) -> Iterator[Drawn]:
    """Yield images batch by batch; image i is drawn from seed + i alone.

    Raises:
        EvaluationFailed: an image is not finite.
        ModelUnsupported: as `diffusion.sample`.
        Interrupted: `tick` asks to stop.
    """
    ddim = with_ddim(pipeline, sampling)
    for start in range(images.start, images.stop, batch_size):
        indices = range(start, min(start + batch_size, images.stop))
        found = diffusion.sample(
            ddim,
            seeds=[seed + index for index in indices],
            num_steps=sampling.num_steps,
            eta=sampling.eta,
            batch_size=batch_size,
            progress=lambda _done, _total: tick(),
        )
        _refuse_nan(found, indices, seed=seed)
        yield Drawn(indices, diffusion.to_uint8(found).cpu())


def _refuse_nan(images: Tensor, indices: Sequence[int], *, seed: int) -> None:
    finite = torch.isfinite(images).flatten(1).all(dim=1)
    if bool(finite.all()):
        return
    bad = int((~finite).nonzero()[0])
    raise EvaluationFailed(
        f"Image {indices[bad]} (seed {seed + indices[bad]}) has pixels that are not "
        "numbers.",
        hint="The quantized model overflows: raise activation_bits, or leave the "
        "layers that the report calls worst in full precision.",
    )

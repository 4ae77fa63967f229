"""The work of a sample: images from a checkpoint or a model, and their comparison."""

from dataclasses import dataclass
from time import perf_counter
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field
from torch import Tensor

from jobs.artifacts import StoredArtifact
from jobs.models import Job
from tcaq_core import diffusion
from tcaq_core.diffusion import Pipeline
from tcaq_core.evaluation.paired import psnr_db
from tcaq_core.json_safe import json_safe
from worker.context import Context
from worker.description import describe
from worker.execution import Wanted, described
from worker.images import Images, encode_png, make_grid
from worker.loading import load_baseline
from worker.outcome import Progress, Succeeded
from worker.targets import Target, load_target

PNG = "image/png"


class Seeds(BaseModel, frozen=True):
    """Image i has seed start + i."""

    start: int = 0


class Sampler(BaseModel, frozen=True):
    """The sampler's steps, and DDIM's eta."""

    steps: int = 50
    eta: float = 0.0


class Output(BaseModel, frozen=True):
    """What is drawn besides the single images."""

    grid: bool = True


class SampleRequest(BaseModel, frozen=True):
    """The part of a sample's stored request that the work depends on."""

    target: Target
    n: Annotated[int, Field(ge=1)]
    compare_to: Literal["baseline"] | None = None
    execution: Wanted = "auto"
    seeds: Seeds = Seeds()
    sampler: Sampler = Sampler()
    output: Output = Output()

    @property
    def all_seeds(self) -> range:
        """The seed of each image."""
        return range(self.seeds.start, self.seeds.start + self.n)


@dataclass(frozen=True)
class Drawn:
    """Images as the sampler gave them and as they are stored."""

    images: Tensor  # (N, C, H, W) in [-1, 1]
    pixels: Images  # (N, H, W, C)


def sample(job: Job, context: Context, progress: Progress) -> Succeeded:
    """Draw the images, the baseline's of the same noise if asked, and store PNGs.

    Raises:
        TCAQError: the model or the checkpoint cannot be used.
        JobError: the target is not there, or the lease is lost.
    """
    request = SampleRequest.model_validate(job.request)
    progress("fetch", 0, 1)
    target = load_target(request.target, context, execution=request.execution)
    baseline = None
    if request.compare_to == "baseline":
        loaded = load_baseline(target, context)
        progress("fetch", 1, 1)
        baseline = _draw(loaded.pipeline, request, "baseline", progress)
    describe(job, context, target.info)
    began = perf_counter()
    drawn = _draw(target.pipeline, request, "sample", progress)
    seconds = perf_counter() - began
    progress("store", 0, 1)
    artifacts, result = _store(request, drawn, baseline, context)
    progress("store", 1, 1)
    result |= {
        **described(target.execution),
        "metrics": _metrics(drawn, baseline),
        "seconds_per_image": seconds / request.n,
    }
    return Succeeded(result=result, artifacts=artifacts)


def _draw(
    pipeline: Pipeline, request: SampleRequest, stage: str, progress: Progress
) -> Drawn:
    progress(stage, 0, 1)
    images = diffusion.sample(
        pipeline,
        seeds=request.all_seeds,
        num_steps=request.sampler.steps,
        eta=request.sampler.eta,
        progress=lambda done, total: progress(stage, done, total),
    )
    return Drawn(images, diffusion.to_uint8(images).cpu().numpy())


def _store(
    request: SampleRequest, drawn: Drawn, baseline: Drawn | None, context: Context
) -> tuple[dict[str, StoredArtifact], dict[str, Any]]:
    artifacts: dict[str, StoredArtifact] = {}

    def put(name: str, image: Images) -> dict[str, Any]:
        stored = context.store.put_bytes(encode_png(image), media_type=PNG)
        artifacts[name] = stored
        height, width = image.shape[:2]
        return {"sha256": stored.sha256, "width": width, "height": height}

    def put_all(prefix: str, pixels: Images) -> list[dict[str, Any]]:
        return [
            {"seed": seed, **put(f"{prefix}/{index}", image)}
            for index, (seed, image) in enumerate(
                zip(request.all_seeds, pixels, strict=True)
            )
        ]

    result: dict[str, Any] = {"images": put_all("image", drawn.pixels)}
    result["baseline"] = put_all("baseline", baseline.pixels) if baseline else None
    result["grid"] = None
    if request.output.grid:
        # Full precision above, quantized below, same noise in each column.
        top, below = drawn.pixels, None
        if baseline is not None:
            top, below = baseline.pixels, drawn.pixels
        result["grid"] = put("grid", make_grid(top, below=below))
    return artifacts, result


def _metrics(drawn: Drawn, baseline: Drawn | None) -> object:
    if baseline is None:
        return None
    # Infinite where the images are equal: null in JSON.
    return json_safe({"psnr_db": psnr_db(drawn.images, baseline.images)})

"""Samples on the wire (api.md, section 9)."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from jobs.models import Json
from service.schemas.job import Tracked
from service.schemas.target import ExecutionAsked, Target

Execution = Literal["integer", "simulated", "full-precision"]
CLOSED = ConfigDict(frozen=True, extra="forbid")


class Seeds(BaseModel):
    """Image i is drawn from the noise of seed `start` + i."""

    model_config = CLOSED

    start: Annotated[int, Field(ge=0, lt=2**63 - 2**32)] = 0


class Sampler(BaseModel):
    """The pipeline's own sampler."""

    model_config = CLOSED

    steps: Annotated[int, Field(ge=1, le=1000)] = 50
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    """DDIM's eta; ignored by pipelines that have none."""


class Output(BaseModel):
    """The files that are made."""

    model_config = CLOSED

    format: Literal["png"] = "png"
    grid: bool = True
    """Whether all images are put together in one, too."""


class SampleCreate(BaseModel):
    """Body of POST /sample."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "target": {"job_id": "job_019ab6f0a1b27c3d8e4f5a6b7c8d9e0f"},
                    "compare_to": "baseline",
                    "n": 16,
                    "seeds": {"start": 1000},
                    "sampler": {"steps": 50, "eta": 0.0},
                }
            ]
        },
    )

    target: Target
    compare_to: Literal["baseline"] | None = None
    """`baseline` draws the full-precision images of the same noise, too."""
    execution: ExecutionAsked = "auto"
    """How a checkpoint computes. `auto` is `integer` wherever the worker and the
    checkpoint allow it, else `simulated`; the answer says which it was."""
    n: Annotated[int, Field(ge=1)] = 1
    """Number of images; the service's settings name the most."""
    seeds: Seeds = Seeds()
    sampler: Sampler = Sampler()
    output: Output = Output()


class Image(BaseModel):
    """One PNG."""

    url: str
    sha256: str
    width: int
    height: int
    seed: int | None = None
    """Null for a grid."""
    expires_at: None = None
    """Always null: images are kept."""


class ExecutionDetails(BaseModel):
    """What a checkpoint computed with."""

    kernels: str
    """E.g. `onednn-int8`; `torch-float32` where all is simulated."""
    integer_layers: int
    simulated_layers: dict[str, str]
    """Why each of these layers was simulated all the same, by name."""
    note: str | None
    """Why this is not the fastest execution, where it is not."""


class SampleUrls(BaseModel):
    """Where to go from here."""

    self: str


class SampleRead(Tracked):
    """The sample object; what was drawn is null until it has succeeded."""

    object: Literal["sample"] = "sample"
    request: Json
    """The body as accepted, every default written out."""
    images: list[Image] | None
    grid: Image | None
    """With a baseline: full precision above, quantized below, same noise."""
    baseline: list[Image] | None
    execution: Execution | None
    """What computed the images: integer kernels, floating point that mimics them, or
    the model as it was."""
    execution_details: ExecutionDetails | None
    """Null in full precision."""
    metrics: dict[str, float | None] | None
    """`psnr_db`: mean over the images, against the baseline."""
    seconds_per_image: float | None
    urls: SampleUrls

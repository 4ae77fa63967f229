"""The job object (api.md, section 3) and its pages."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel

from jobs.models import Json
from jobs.status import JobStatus


class Stage(BaseModel):
    """Which part of the job is being worked on; `index` counts from 0."""

    name: str
    index: int
    count: int


class Progress(BaseModel):
    """How far the whole job is, as of `updated_at`."""

    percent: float
    """0 to 100, of the whole job."""
    unit: str | None
    """What `done` and `total` count, in the present stage."""
    done: int
    total: int
    rate_per_s: float | None
    """Units per second in the present stage."""
    eta_s: float | None
    """Seconds left; null until there is evidence."""
    eta_low_s: float | None
    eta_high_s: float | None


class Queue(BaseModel):
    """Place in the queue of this kind; null when not queued, and in listings."""

    position: int | None = None
    """1 is next."""
    ahead: int | None = None


class Attempt(BaseModel):
    """How often a worker took the job; it fails with `worker_lost` after `max`."""

    number: int
    max: int
    resumed_from: str | None
    """The last part that an earlier attempt had finished and this one went on from,
    e.g. `par/round-0/mid_block.resnets.0`; null: it began at the beginning."""
    last_heartbeat_at: datetime | None


class Step(BaseModel):
    """A stage that was begun."""

    name: str
    status: JobStatus
    started_at: datetime
    finished_at: datetime | None


class Usage(BaseModel):
    """What the job took so far."""

    worker_seconds: float | None
    """From the first claim on, queueing between attempts included."""
    gpu_seconds: float | None
    """The same where the worker had a GPU, else 0; null until that is known."""


class ModelUsed(BaseModel):
    """Which model; hash, commit and size are null until the worker has read it."""

    reference: str
    """As submitted."""
    repo: str
    revision: str | None
    weights_sha256: str | None
    num_parameters: int | None


class Failure(BaseModel):
    """Why a job failed; `code` is one of those that GET /problems lists."""

    code: str
    title: str
    detail: str
    hint: str
    retryable: bool


class Tracked(BaseModel):
    """What a job and a sample have in common."""

    id: str
    kind: str
    status: JobStatus
    stage: Stage | None
    progress: Progress
    queue: Queue
    attempt: Attempt
    created_at: datetime
    started_at: datetime | None
    updated_at: datetime
    finished_at: datetime | None
    cancel_requested_at: datetime | None
    expires_at: None = None
    """Always null: what a job made is kept."""
    environment: Json | None
    steps: list[Step]
    usage: Usage
    error: Failure | None
    warnings: list[Json]


class JobUrls(BaseModel):
    """Where to go from here."""

    self: str
    cancel: str
    checkpoint: str | None
    """Null until the job has succeeded, as all that follow; only a quantization has
    one, and a report."""
    report: str | None
    """What each pass did, layer by layer: JSON."""
    report_picture: str | None
    """The same as a PNG, layers by timesteps."""
    onnx: str | None
    """Null, too, where the job's `exports` do not name it."""
    scores: str | None
    """One record per metric; null, too, without an `evaluation`, and for a sweep,
    whose points have scores of their own in `result`."""
    pareto: str | None
    """A sweep's table: JSON."""
    pareto_picture: str | None
    """The same as a PNG, bytes and milliseconds against the score."""


class JobRead(Tracked):
    """The job object."""

    object: Literal["job"] = "job"
    model: ModelUsed
    recipe: Json | None
    """Resolved: with the model's revision it reproduces the job. Null for other kinds
    than `quantize`."""
    recipe_digest: str | None
    exports: list[str]
    """The formats that are written."""
    evaluation: Json | None
    """The plan, every default written out and every file named by its hash; null: the
    job scores nothing."""
    guards: Json | None
    """What the quantization must not cost; null: nothing is guarded."""
    labels: dict[str, str]
    metrics: dict[str, float]
    """What was measured on the result, by name; empty until then. A score comes with
    its `_baseline` and `_delta`."""
    result: Json | None
    """Hashes and sizes of what was made, the checks that the checkpoint passed, how it
    executes on the worker (`execution`, `simulated_ops`) and how fast compared with
    its model in float32 and bfloat16 (`benchmark`; `benchmark_error` where measuring
    failed, which costs no checkpoint); an evaluation's records (`evaluation`), what
    the guards changed (`guards`), a sweep's `points`, in a listing without their
    `scores`; null until then."""
    urls: JobUrls


class JobPage(BaseModel):
    """One page of GET /jobs."""

    object: Literal["list"] = "list"
    data: list[JobRead]
    has_more: bool
    first_id: str | None
    last_id: str | None
    next: str | None
    """Value of `after` for the page that follows; null: this is the last."""

"""What the service offers and how it is, on the wire."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.problem import ProblemKind
from tcaq_core.evaluation.protocols import Protocol
from tcaq_core.recipe import Recipe


class ModelRead(BaseModel):
    """A model folder; what cannot be read from an unusable one is null."""

    object: Literal["model"] = "model"
    name: str
    usable: bool
    reason: str | None = None
    """Why it cannot be quantized."""
    hint: str | None = None
    code: str | None = None
    pipeline: str | None = None
    denoiser: str | None = None
    num_parameters: int | None = None
    sample_size: int | None = None
    """Side of its images in pixels."""
    in_channels: int | None = None


class ModelList(BaseModel):
    """GET /models."""

    object: Literal["list"] = "list"
    data: list[ModelRead]
    allow_hub: bool
    """Whether owner/name@<commit> is accepted as a model, too."""


class EstimateRead(BaseModel):
    """What a job is expected to take; seconds are right within a factor of two or so.

    They are those of one thread of a present-day server's processor; a GPU takes less.
    """

    seconds: float
    stage_seconds: dict[str, float]
    peak_memory_bytes: int
    """Of the working process."""
    denoiser_bytes: int
    """Of the packed weights."""


class PresetRead(BaseModel):
    """A named recipe, resolved at the bit widths of the answer."""

    object: Literal["recipe"] = "recipe"
    name: str
    description: str
    recipe: Recipe
    estimate: EstimateRead | None = None
    """For the local model that `model` names; null without one."""


class AllowedBits(BaseModel):
    """The bit widths that may be asked for; 16 leaves activations as they are."""

    weight_bits: list[int]
    activation_bits: list[int]
    softmax_bits: list[int]


class RecipeList(BaseModel):
    """GET /recipes."""

    model_config = ConfigDict(populate_by_name=True)

    object: Literal["list"] = "list"
    data: list[PresetRead]
    allowed: AllowedBits
    passes: list[str]
    """The order in which passes may appear."""
    method_schema: dict[str, Any] = Field(alias="schema")
    """JSON Schema of a method, for `recipe` in POST /jobs."""


class ProtocolRead(BaseModel):
    """A named protocol, and whether this service can evaluate by it."""

    object: Literal["protocol"] = "protocol"
    name: str
    description: str
    usable: bool
    reason: str | None = None
    """Why it cannot be used."""
    hint: str | None = None
    code: str | None = None
    protocol: Protocol
    """Everything that it fixes."""


class ProtocolList(BaseModel):
    """GET /protocols."""

    object: Literal["list"] = "list"
    data: list[ProtocolRead]


class ProblemList(BaseModel):
    """GET /problems."""

    object: Literal["list"] = "list"
    data: list[ProblemKind]


class Alive(BaseModel):
    """GET /healthz."""

    status: Literal["alive"] = "alive"


class Ready(BaseModel):
    """GET /readyz."""

    status: Literal["ready"] = "ready"
    checks: dict[str, Literal["ok"]]

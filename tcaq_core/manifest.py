"""What a checkpoint says of itself; torch-free, versioned, strict."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from tcaq_core.errors import ModelUnsupported
from tcaq_core.recipe import Recipe, SoftmaxGrid

SCHEMA_VERSION = 3
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class LayerEntry(BaseModel, frozen=True, extra="forbid"):
    """How one weight is stored: ``<name>.weight_codes`` unpacks to `shape`."""

    shape: tuple[Annotated[int, Field(ge=1)], ...]
    weight_bits: Annotated[int, Field(ge=2, le=8)]
    activation_bits: Annotated[int, Field(ge=4, le=16)]
    parts: tuple[Annotated[int, Field(ge=1)], ...]
    """Input channels of each part with grids of its own; usually one part."""
    is_rescaled: bool
    """Whether TCR's ``<name>.input_rescale`` is stored and applied."""
    modulation: Literal["step", "dynamic"] | None = None
    """MoDiff: the ranges of the input's differences, where those are quantized."""
    is_settled: bool = False
    """Whether later passes leave its codes alone (TFMQ-DM's temporal block)."""


class AttentionEntry(BaseModel, frozen=True, extra="forbid"):
    """The post-softmax grids of one attention block, one a timestep group."""

    grids: tuple[SoftmaxGrid, ...]


class Structure(BaseModel, frozen=True, extra="forbid"):
    """What a quantized denoiser is made of, beside its tensors."""

    layers: dict[str, LayerEntry]
    attentions: dict[str, AttentionEntry]
    steps: tuple[int, ...] = ()
    """The timesteps that rows of tables by sampler step refer to, falling."""
    is_corrected: bool = False
    """Whether ``correction.gain``, ``.bias`` and ``.residual_std`` are stored."""
    recommended_steps: int | None = None
    """The sampler length that mixed precision chose together with the bits."""
    cached_steps: tuple[int, ...] = ()
    """The timesteps whose temporal features are stored instead of the layers."""


class Description(BaseModel, frozen=True, extra="forbid"):
    """What the packed tensors of a denoiser mean."""

    recipe: Recipe
    structure: Structure
    num_timesteps: Annotated[int, Field(ge=1)]
    """Timesteps of the training schedule, which groups of timesteps divide."""

    def canonical(self) -> str:
        """Return one string for one meaning, whatever the order it was read in."""
        names = set(Description.model_fields)
        data = self.model_dump(mode="json", include=names)
        return json.dumps(data, sort_keys=True, separators=(",", ":"))


class DenoiserConfig(Description, frozen=True, extra="forbid"):
    """``quantization_config`` in config.json: with it, the weight file is enough."""

    quant_method: Literal["tcaq"] = "tcaq"
    schema_version: Literal[3] = 3
    sha256: Sha256
    """Digest of the description and every tensor (`tcaq_core.state.digest_of`)."""
    execution: Literal["integer", "simulated"] = "integer"
    """How diffusers lets the model run; either way the tensors are the same."""

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> "DenoiserConfig":
        """Return what config.json says.

        Raises:
            ModelUnsupported: another schema version, or malformed.
        """
        check_schema(data, what="This denoiser")
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            raise ModelUnsupported(
                f"The quantization_config is malformed: {error.errors()[0]['msg']}.",
                hint="Download the checkpoint again.",
            ) from error


class Manifest(BaseModel, frozen=True, extra="forbid"):
    """The self-description of a checkpoint folder (``manifest.json``)."""

    schema_version: Literal[3] = 3
    format: Literal["tcaq-packed"] = "tcaq-packed"
    recipe: Recipe
    recipe_digest: str
    model: dict[str, Any]
    """Reference, revision and weights hash of what was quantized."""
    environment: dict[str, Any]
    pipeline: Literal["DDPMPipeline", "DDIMPipeline"]
    structure: Structure
    files: dict[str, Sha256]
    """SHA-256 of every other file of the folder."""
    denoiser_bytes: int
    """Size of the packed weight file."""
    float32_bytes: int
    """What the denoiser's parameters take in float32."""


def check_schema(data: Mapping[str, Any], *, what: str) -> None:
    """Refuse what another version of the project wrote.

    Raises:
        ModelUnsupported: the schema version is not ours, or not given.
    """
    found = data.get("schema_version")
    if found != SCHEMA_VERSION:
        raise ModelUnsupported(
            f"{what} has schema version {found}; this installation reads version "
            f"{SCHEMA_VERSION}.",
            hint="Install the version of tcaq that wrote it.",
        )

"""What a sample is drawn from, and what an evaluation scores."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

ExecutionAsked = Literal["auto", "integer", "simulated"]
"""How a checkpoint computes. `auto` is `integer` wherever the worker and the
checkpoint allow it, else `simulated`; the answer says which it was."""


class Target(BaseModel):
    """Exactly one of the three."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job_id: Annotated[str, Field(max_length=64)] | None = None
    """A quantization that has succeeded."""
    checkpoint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """SHA-256 of a checkpoint."""
    model: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """A model in full precision."""

    @model_validator(mode="after")
    def _exactly_one(self) -> "Target":
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError("give exactly one of job_id, checkpoint and model")
        return self

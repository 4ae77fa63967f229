"""What every pass's settings share: frozen, strict, torch-free data."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1)]
Iterations = Annotated[int, Field(ge=1, le=1_000_000)]
Groups = Annotated[int, Field(ge=1, le=1000)]


class Settings(BaseModel):
    """Settings of one pass: unknown keys, infinities and later changes are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

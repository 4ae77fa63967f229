"""Body of POST /jobs with ``kind: sweep``."""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from service.schemas.labels import Labels
from service.schemas.quantization import MethodOrPreset
from tcaq_core.evaluation.spec import Evaluation
from tcaq_core.recipe import (
    ActivationBits,
    CalibrationSpec,
    SoftmaxBits,
    WeightBits,
)

MAX_POINTS: Final = 64
"""Each point is a quantization and an evaluation of its own."""


class Setting(BaseModel):
    """Bit widths of a sweep's points."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight_bits: WeightBits
    activation_bits: ActivationBits
    softmax_bits: SoftmaxBits = 8


class SweepCreate(BaseModel):
    """Quantize and score a model at every setting with every recipe.

    Calibration, baseline and reference are shared. Each recipe's passes are resolved
    at each setting, as a quantization's are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["sweep"]
    model: Annotated[str, Field(min_length=1, max_length=256)]
    """A model's name as GET /models lists it, or owner/name@<40-digit commit>."""
    settings: Annotated[tuple[Setting, ...], Field(min_length=1, max_length=32)]
    """Bit widths, each once."""
    recipes: Annotated[
        tuple[MethodOrPreset, ...], Field(min_length=1, max_length=8)
    ] = ("standard",)
    """Presets' names, or the passes themselves, each once."""
    calibration: CalibrationSpec = CalibrationSpec()
    evaluation: Evaluation = Evaluation()
    labels: Labels = {}
    """Words of your own to find the job by."""

    @field_validator("settings")
    @classmethod
    def _once(cls, settings: tuple[Setting, ...]) -> tuple[Setting, ...]:
        if len(set(settings)) < len(settings):
            raise ValueError("each setting may be named once")
        return settings

    @field_validator("recipes")
    @classmethod
    def _few(
        cls, recipes: tuple[MethodOrPreset, ...], info: ValidationInfo
    ) -> tuple[MethodOrPreset, ...]:
        if any(recipe in recipes[:index] for index, recipe in enumerate(recipes)):
            raise ValueError("each recipe may be named once")
        # Absent where the settings themselves were refused.
        num_points = len(info.data.get("settings", ())) * len(recipes)
        if num_points > MAX_POINTS:
            raise ValueError(
                f"settings x recipes are {num_points} points; at most {MAX_POINTS}"
            )
        return recipes

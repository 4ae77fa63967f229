"""What is asked for: the body of POST /jobs and the parameters of GET /jobs."""

from typing import Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    WithJsonSchema,
)

from jobs.status import JobStatus
from tcaq_core.recipe import (
    PRESETS,
    ActivationBits,
    CalibrationSpec,
    Method,
    Recipe,
    SoftmaxBits,
    WeightBits,
    resolve,
)

LABEL_KEY: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
LABEL_VALUE: Final = r"^[^\x00-\x1f\x7f]*$"


def _known_preset(name: str) -> str:
    if name not in PRESETS:
        raise ValueError(f"there is no preset of that name; known: {list(PRESETS)}")
    return name


def _with_safetensors(formats: tuple[str, ...]) -> tuple[str, ...]:
    # The checkpoint is what everything else is made of, and each is made once.
    return tuple(dict.fromkeys(("safetensors", *formats)))


def _variant(value: object) -> str:
    return "method" if isinstance(value, dict | Method) else "preset"


PresetName = Annotated[
    str,
    AfterValidator(_known_preset),
    WithJsonSchema({"type": "string", "enum": list(PRESETS)}),
]
MethodOrPreset = Annotated[
    Annotated[PresetName, Tag("preset")] | Annotated[Method, Tag("method")],
    Discriminator(_variant),
]
ExportFormat = Literal["safetensors", "onnx"]
Exports = Annotated[
    tuple[ExportFormat, ...], Field(max_length=8), AfterValidator(_with_safetensors)
]
LabelKey = Annotated[str, StringConstraints(pattern=LABEL_KEY)]
LabelValue = Annotated[str, StringConstraints(pattern=LABEL_VALUE, max_length=256)]


class JobCreate(BaseModel):
    """Body of POST /jobs; model and bit widths are all that is required."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "model": "ddpm-cifar10-small",
                    "weight_bits": 4,
                    "activation_bits": 8,
                }
            ]
        },
    )

    kind: Literal["quantize"] = "quantize"
    model: Annotated[str, Field(min_length=1, max_length=256)]
    """A model's name as GET /models lists it, or owner/name@<40-digit commit>."""
    weight_bits: WeightBits
    activation_bits: ActivationBits
    softmax_bits: SoftmaxBits = 8
    recipe: MethodOrPreset = "standard"
    """A preset's name, or the passes themselves."""
    calibration: CalibrationSpec = CalibrationSpec()
    exports: Exports = ("safetensors",)
    """The formats to write. `safetensors`, the checkpoint, always is."""
    labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=32)] = {}
    """Words of your own to find the job by."""

    def resolved(self) -> Recipe:
        """Return the complete recipe, every default written out."""
        return resolve(
            self.recipe,
            weight_bits=self.weight_bits,
            activation_bits=self.activation_bits,
            softmax_bits=self.softmax_bits,
            calibration=self.calibration,
        )


class JobsQuery(BaseModel):
    """Query parameters of GET /jobs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: JobStatus | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    after: Annotated[str, Field(max_length=100)] | None = None
    """`next` of the page before."""
    order: Literal["desc", "asc"] = "desc"
    """By creation time; desc is newest first."""

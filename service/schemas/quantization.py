"""Body of POST /jobs with ``kind: quantize``, which is also the default."""

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
)

from service.schemas.labels import Labels
from tcaq_core.evaluation.spec import Evaluation, Guards
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


class QuantizeCreate(BaseModel):
    """Make a checkpoint; model and bit widths are all that is required."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    evaluation: Evaluation | None = None
    """How the checkpoint is scored; by default it is not."""
    guards: Guards | None = None
    """What the quantization must not cost; each needs its metric in `evaluation`."""
    labels: Labels = {}
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

"""A recipe: bit widths, passes, exceptions by layer, calibration; torch-free."""

import hashlib
from fnmatch import fnmatchcase
from typing import Annotated, Final, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from tcaq_core.recipe.data import Allocate
from tcaq_core.recipe.passes import ORDER, Pass
from tcaq_core.recipe.ranges import Temporal

WeightBits = Annotated[int, Field(ge=2, le=8)]
SoftmaxBits = Annotated[int, Field(ge=4, le=8)]
ActivationBits = Literal[4, 5, 6, 7, 8, 16]
"""16 means that activations are not quantized."""


# The largest published calibration sets hold 256 samples at 400 steps.
MAX_INPUTS: Final = 200_000


class Override(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Other bit widths for the layers whose name matches a glob pattern."""

    match: Annotated[str, Field(min_length=1, max_length=200)]
    """Pattern over the denoiser's module names, e.g. ``up_blocks.2.*``."""
    weight_bits: WeightBits | None = None
    activation_bits: ActivationBits | None = None


class CalibrationSpec(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """How calibration trajectories are sampled with the pipeline's own sampler."""

    num_samples: Annotated[int, Field(ge=1, le=65_536)] = 16
    """Trajectories, each from its own noise."""
    num_steps: Annotated[int, Field(ge=1, le=1000)] = 20
    """Sampler steps of each trajectory; the denoiser's input is kept at every one."""
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    """DDIM's eta; ignored by pipelines that have none."""
    seed: Annotated[int, Field(ge=0, lt=2**63 - 2**32)] = 0
    """Noise of trajectory i is drawn from seed + i; everything else random in the
    job follows from it too."""

    @model_validator(mode="after")
    def _fits_in_memory(self) -> "CalibrationSpec":
        if self.num_samples * self.num_steps > MAX_INPUTS:
            raise ValueError(
                f"num_samples * num_steps must be at most {MAX_INPUTS}: every input "
                "of the denoiser is kept"
            )
        return self


class Method(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """What is done, without the bit widths: the passes and the layers left alone."""

    passes: Annotated[tuple[Pass, ...], Field(min_length=1)]
    skip: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = ()
    """Patterns of layers that stay in full precision."""
    overrides: tuple[Override, ...] = ()
    """First match wins."""

    @field_validator("passes")
    @classmethod
    def _in_order(cls, passes: tuple[Pass, ...]) -> tuple[Pass, ...]:
        kinds = [item.kind for item in passes]
        if "fit_ranges" not in kinds:
            raise ValueError("passes must contain fit_ranges: nothing else sets scales")
        if kinds != [kind for kind in ORDER if kind in kinds]:
            raise ValueError(
                f"passes must be a subsequence of {list(ORDER)}, each at most once; "
                f"got {kinds}"
            )
        return passes

    @model_validator(mode="after")
    def _steps_are_known(self) -> "Method":
        chosen = any(isinstance(p, Allocate) and p.steps for p in self.passes)
        cached = any(
            isinstance(p, Temporal) and p.maintenance == "cache" for p in self.passes
        )
        if chosen and cached:
            raise ValueError(
                "temporal.maintenance 'cache' stores the calibrated steps; "
                "allocate.steps may choose others"
            )
        return self


class LayerBits(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Bit widths of one layer."""

    weight_bits: WeightBits
    activation_bits: ActivationBits


class Recipe(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Everything that decides a quantized checkpoint, given the model's weights."""

    weight_bits: WeightBits
    activation_bits: ActivationBits
    softmax_bits: SoftmaxBits = 8
    method: Method
    calibration: CalibrationSpec = CalibrationSpec()

    def bits_of(self, layer: str) -> LayerBits | None:
        """Return the bit widths of a layer by module name; None: full precision."""
        if any(fnmatchcase(layer, pattern) for pattern in self.method.skip):
            return None
        found = self._override_of(layer)
        weight_bits = found.weight_bits if found else None
        activation_bits = found.activation_bits if found else None
        return LayerBits(
            weight_bits=weight_bits or self.weight_bits,
            activation_bits=activation_bits or self.activation_bits,
        )

    def chooses_weight_bits(self, layer: str) -> bool:
        """Return whether a pass chooses a quantized layer's weight bits.

        Not where an override names them.
        """
        found = self._override_of(layer)
        is_named = found is not None and found.weight_bits is not None
        return not is_named and any(isinstance(p, Allocate) for p in self.method.passes)

    def digest(self) -> str:
        """Return ``sha256:<hex>`` of the canonical JSON."""
        return f"sha256:{hashlib.sha256(self.model_dump_json().encode()).hexdigest()}"

    def _override_of(self, layer: str) -> Override | None:
        matching = (o for o in self.method.overrides if fnmatchcase(layer, o.match))
        return next(matching, None)

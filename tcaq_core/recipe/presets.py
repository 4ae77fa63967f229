"""Named methods. A preset may look at the bit widths, as the paper's do."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from tcaq_core.recipe.ranges import DAQ, TCR, FitRanges
from tcaq_core.recipe.reconstruction import PAR
from tcaq_core.recipe.recipe import (
    ActivationBits,
    CalibrationSpec,
    Method,
    Recipe,
    SoftmaxBits,
    WeightBits,
)

# TFMQ-DM's choice, which TCAQ-DM adopts: the first layer of the time embedding, the
# input and the output convolution keep full precision.
FULL_PRECISION_LAYERS: Final = ("conv_in", "conv_out", "time_embedding.linear_1")


def rtn(weight_bits: int, activation_bits: int) -> Method:
    """Round to nearest on min-max ranges: the baseline that every method must beat."""
    del weight_bits, activation_bits
    return Method(
        passes=(FitRanges(weight="min_max", activation="min_max"),),
        skip=FULL_PRECISION_LAYERS,
    )


def tcaq(weight_bits: int, activation_bits: int) -> Method:
    """TCAQ-DM with a reconstruction budget that suits small models and CPUs."""
    del weight_bits, activation_bits
    return Method(
        passes=(
            TCR(strength=0.5),
            FitRanges(),
            DAQ(),
            PAR(
                rounds=1,
                iterations=100,
                round_iterations=50,
                batch_size=8,
                num_inputs=160,
                # Rounding variables must cross the same distance in fewer steps.
                learning_rate=2e-2,
            ),
        ),
        skip=FULL_PRECISION_LAYERS,
    )


def tcaq_paper(weight_bits: int, activation_bits: int) -> Method:
    """TCAQ-DM with the paper's own reconstruction budget: hours on a GPU."""
    return Method(
        passes=(
            # The paper truncates at W4A8 only: there the weights are the weaker side.
            TCR(truncation=3.0 if (weight_bits, activation_bits) == (4, 8) else None),
            FitRanges(activation="percentile"),
            DAQ(select="likelihood_ratio"),
            PAR(rounds=2),
        ),
        skip=FULL_PRECISION_LAYERS,
    )


PRESETS: Final[Mapping[str, Callable[[int, int], Method]]] = MappingProxyType(
    {"rtn": rtn, "tcaq": tcaq, "tcaq-paper": tcaq_paper}
)


def resolve(
    method: str | Method,
    *,
    weight_bits: WeightBits,
    activation_bits: ActivationBits,
    softmax_bits: SoftmaxBits = 8,
    calibration: CalibrationSpec | None = None,
) -> Recipe:
    """Return the complete recipe of a preset's name or an explicit method.

    Raises:
        KeyError: no preset of that name; `PRESETS` holds them all.
        pydantic.ValidationError: a value outside its range.
    """
    if isinstance(method, str):
        method = PRESETS[method](weight_bits, activation_bits)
    return Recipe(
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        softmax_bits=softmax_bits,
        method=method,
        calibration=calibration or CalibrationSpec(),
    )

"""Settings of the passes that decide what is quantized on which data, in how many bits.

Defaults that a paper states are marked with it; the others were chosen by
measurement (docs/method.md says which and how).
"""

from typing import Annotated, Literal

from pydantic import Field

from tcaq_core.recipe.fields import PositiveInt, Settings


class Select(Settings):
    """Which of the recorded denoiser inputs calibrate everything that follows.

    Only what PAR's rounds sample for themselves is used whole.
    """

    kind: Literal["select"] = "select"
    rule: Literal["uniform", "normal", "density_variety"] = "uniform"
    """``uniform`` spreads over the steps (Q-Diffusion); ``normal`` draws steps from a
    skewed normal distribution (PTQ4DM, NDTC); ``density_variety`` gives a step more
    inputs where its mid-block features are typical and various (EDA-DM, TDAC)."""
    num_inputs: Annotated[PositiveInt, Field(le=200_000)] = 1024
    """How many inputs are kept, at most (PTQ4DM and EDA-DM: 1,024)."""
    mean: Annotated[float, Field(ge=0, le=1)] = 0.4
    """``normal``: mean timestep, as a fraction of the schedule (PTQ4DM: 0.4)."""
    std: Annotated[float, Field(gt=0, le=1)] = 0.4
    """``normal``: its standard deviation (PTQ4DM's released script: 0.4)."""
    variety_weight: Annotated[float, Field(ge=0)] = 1.2
    """``density_variety``: lambda in P_t = D_t + lambda V_t (EDA-DM: 1.0 to 1.2)."""
    radius: Annotated[float, Field(gt=0)] | None = None
    """``density_variety``: r_d, the mean squared difference up to which features count
    as near (EDA-DM: 3.0 on CIFAR-10, 0.3 on LSUN); by default the 25 % quantile of the
    differences between any two steps."""


class Allocate(Settings):
    """Mixed precision: weight bits per layer, and sampler steps, under one budget.

    Sensitivity is the error of the predicted noise with one layer alone quantized
    (SQ-DM's block-wise sensitivity); the cheapest drop is taken until the budget is
    met. With several ``steps``, bits and sampler steps share a budget of bit
    operations, as TMPQ-DM proposes.
    """

    kind: Literal["allocate"] = "allocate"
    average_weight_bits: Annotated[float, Field(ge=2, le=8)] = 4.0
    """Budget: mean weight bits over all multiplications of one denoiser call, but those
    of layers whose weight bits an override names."""
    candidates: Annotated[
        tuple[Annotated[int, Field(ge=2, le=8)], ...], Field(min_length=2)
    ] = (2, 3, 4, 5, 6, 8)
    """Weight bits a layer may get."""
    steps: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = ()
    """Sampler lengths to choose from (TMPQ-DM); empty: the calibration's own."""
    num_inputs: Annotated[PositiveInt, Field(le=200_000)] = 32
    """Calibration inputs on which sensitivities are measured."""


class Split(Settings):
    """Shortcut-splitting quantization (Q-Diffusion).

    Where an up block's shortcut reads a concatenation of two feature maps, each half
    gets grids of its own, for weights and activations.
    """

    kind: Literal["split"] = "split"

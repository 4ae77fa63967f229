"""Settings of each pass: frozen, torch-free data named after the papers' terms.

Defaults that a paper states are marked with it; the others were chosen by
measurement (docs/method.md says which and how).
"""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

PositiveInt = Annotated[int, Field(ge=1)]
Iterations = Annotated[int, Field(ge=1, le=1_000_000)]


class TCR(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Timestep-channel joint reparameterization (TCAQ-DM, equations 3 to 5).

    Each convolution's input channel j is divided by r_j and its weight multiplied.
    """

    kind: Literal["tcr"] = "tcr"
    num_groups: Annotated[PositiveInt, Field(le=1000)] = 20
    """Timestep groups G over which channel ranges are taken and averaged."""
    target: Literal["min", "percentile", "mean"] = "percentile"
    """What a channel's range is compared with: the narrowest channel (paper), the
    5 % quantile of the channels (robust against dead channels), or their mean."""
    strength: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Exponent on r: 1 is the paper, 0.5 shares the burden with the weights."""
    truncation: Annotated[float, Field(gt=1)] | None = None
    """R_tru: r is clipped to [1/R_tru, R_tru]; the paper uses 3 at W4A8 only."""


class FitRanges(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Scale and zero point of every quantizer from weights and calibration data."""

    kind: Literal["fit_ranges"] = "fit_ranges"
    weight: Literal["min_max", "mse"] = "mse"
    """``mse`` searches 80 shrink factors per output channel, L2.4 norm (BRECQ)."""
    activation: Literal["min_max", "percentile", "mse"] = "mse"
    """``percentile`` tries RepQ-ViT's three quantiles and keeps the smallest L2
    error; ``mse`` searches shrink factors of the min-max range."""


class DAQ(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Dynamically adaptive quantizer of post-softmax maps (TCAQ-DM, section DAQ)."""

    kind: Literal["daq"] = "daq"
    num_groups: Annotated[PositiveInt, Field(le=1000)] = 10
    """Timestep groups that choose their quantizer separately."""
    select: Literal["output_error", "likelihood_ratio"] = "output_error"
    """``likelihood_ratio`` is the paper's power-law test (log2 where positive);
    ``output_error`` keeps whichever disturbs the attention output less."""


class PAR(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Progressively aligned reconstruction (TCAQ-DM) over AdaRound blocks (BRECQ).

    One base reconstruction on full-precision trajectories, then ``rounds`` more on
    trajectories sampled with the quantized model itself.
    """

    kind: Literal["par"] = "par"
    rounds: Annotated[int, Field(ge=0, le=16)] = 1
    """Progressive rounds K after the base reconstruction (unknown in the paper)."""
    iterations: Iterations = 20_000
    """Optimiser steps per block in the base reconstruction (paper: 20,000)."""
    round_iterations: Iterations = 10_000
    """Optimiser steps per block in each progressive round (paper: 10,000)."""
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 16
    num_inputs: Annotated[int, Field(ge=1, le=200_000)] = 5120
    """Calibration inputs used, spread over trajectories and timesteps (at most)."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Adam's step on the rounding variables (BRECQ: 1e-3 at 20,000 iterations)."""
    regularizer: Annotated[float, Field(ge=0)] = 0.01
    """Weight lambda of AdaRound's rounding regulariser (BRECQ)."""
    beta: tuple[float, float] = (20.0, 2.0)
    """Annealing of the regulariser's exponent, start to end (BRECQ)."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Fraction of the iterations without regulariser, repeated in every round."""
    quantize_activations: bool = True
    """Whether activations are quantized while weights are reconstructed."""


Pass = Annotated[TCR | FitRanges | DAQ | PAR, Field(discriminator="kind")]

ORDER: tuple[str, ...] = ("tcr", "fit_ranges", "daq", "par")
"""The only order in which passes may appear: data, so illegal recipes cannot exist."""

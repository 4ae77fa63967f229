"""Settings of the passes that place grids: factors, ranges, softmax grids."""

from typing import Annotated, Literal

from pydantic import Field

from tcaq_core.recipe.fields import Groups, Iterations, Settings

SoftmaxGrid = Literal["uniform", "log2", "log_sqrt2", "adaptive"]


class TCR(Settings):
    """Timestep-channel joint reparameterization (TCAQ-DM, equations 3 to 5).

    Each convolution's input channel j is divided by r_j and its weight multiplied.
    """

    kind: Literal["tcr"] = "tcr"
    num_groups: Groups = 20
    """Timestep groups G over which channel ranges are taken and averaged. With 1 it
    is RepQ-ViT's reparameterization, without its shift (a shift breaks padding)."""
    target: Literal["min", "percentile", "mean"] = "percentile"
    """What a channel's range is compared with: the narrowest channel (paper), the
    5 % quantile of the channels (robust against dead channels), or their mean."""
    strength: Annotated[float, Field(ge=0, le=1)] | Literal["search"] = 1.0
    """Exponent on r: 1 is the paper, 0.5 shares the burden with the weights;
    ``search`` tries 0, 0.25, 0.5, 0.75, 1 for each layer and keeps the one with the
    smallest error of the layer's quantized output."""
    truncation: Annotated[float, Field(gt=1)] | None = None
    """R_tru: r is clipped to [1/R_tru, R_tru]; the paper uses 3 at W4A8 only."""
    cap: Literal["none", "dilation"] = "none"
    """``dilation`` keeps r_j from widening any output channel's weight range
    (DilateQuant): the weight grids do not get coarser."""
    layers: Literal["convolutions", "all"] = "convolutions"
    """``all`` includes attention's linear layers, as RepQ-ViT does behind norms."""


class FitRanges(Settings):
    """Scale and zero point of every quantizer from weights and calibration data."""

    kind: Literal["fit_ranges"] = "fit_ranges"
    weight: Literal["min_max", "mse"] = "mse"
    """``mse`` searches 80 shrink factors per output channel, L2.4 norm (BRECQ)."""
    activation: Literal["min_max", "percentile", "mse"] = "mse"
    """``percentile`` tries RepQ-ViT's three quantiles and keeps the smallest L2
    error; ``mse`` searches shrink factors of the min-max range."""
    timesteps: Literal["shared", "step", "function", "groups"] = "shared"
    """``shared``: one activation grid for all timesteps. ``step``: one per sampler
    step, as TFMQ-DM's released code does. ``function``: a small network of t, learned
    and tabulated (TDQ). ``groups``: steps share a few grids by learned assignment
    (APQ-DM)."""
    num_groups: Annotated[int, Field(ge=1, le=64)] = 8
    """``groups``: how many grids the steps share (APQ-DM's code: 8)."""


class Temporal(Settings):
    """Temporal information block of TFMQ-DM: the time embedding and its projections.

    Their outputs depend on t alone, so there are finitely many of them.
    """

    kind: Literal["temporal"] = "temporal"
    maintenance: Literal["reconstruct", "cache"] = "reconstruct"
    """``reconstruct`` is TIAR: one AdaRound problem over all temporal features, and
    FSC grids; ``cache`` stores the features of the calibrated steps in float16 and
    drops the layers (Temporal Feature Matters), for those sampler steps only."""
    finite_set: bool = True
    """FSC: one (scale, zero point) pair per sampler step inside the block."""
    iterations: Iterations = 20_000
    """Optimiser steps (TFMQ-DM: 20,000)."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    regularizer: Annotated[float, Field(ge=0)] = 0.01
    beta: tuple[float, float] = (20.0, 2.0)
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.2


class DAQ(Settings):
    """Dynamically adaptive quantizer of post-softmax maps (TCAQ-DM, section DAQ)."""

    kind: Literal["daq"] = "daq"
    num_groups: Groups = 10
    """Timestep groups that choose their quantizer separately."""
    select: Literal["output_error", "likelihood_ratio"] = "output_error"
    """``likelihood_ratio`` is the paper's power-law test (log2 where positive, uniform
    elsewhere); ``output_error`` keeps whichever disturbs the attention output least."""
    grids: Annotated[tuple[SoftmaxGrid, ...], Field(min_length=1)] = (
        "uniform",
        "log2",
        "log_sqrt2",
        "adaptive",
    )
    """What ``output_error`` chooses from: TCAQ-DM has the first two, RepQ-ViT the
    third, AdaLog the fourth (base 2^(k/37), k searched)."""

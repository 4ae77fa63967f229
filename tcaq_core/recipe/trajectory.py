"""Settings of the passes that act along the sampling trajectory."""

from typing import Annotated, Literal

from pydantic import Field

from tcaq_core.recipe.fields import PositiveInt, Settings


class Modulate(Settings):
    """Temporal-difference quantization (MoDiff): layers quantize what changed.

    Each layer keeps its last quantized input and adds the quantized difference to it.
    Opt-in: it costs a stored activation per layer while sampling, and each trajectory
    has to be sampled from its start.
    """

    kind: Literal["modulate"] = "modulate"
    ranges: Literal["step", "dynamic"] = "step"
    """``step``: static ranges per sampler step, calibrated; ``dynamic``: the range of
    the difference itself, measured while sampling."""
    num_samples: Annotated[PositiveInt, Field(le=4096)] = 16
    """``step``: trajectories that are sampled to calibrate, all in one batch."""


class Correct(Settings):
    """Correction of the predicted noise, one linear function per sampler step."""

    kind: Literal["correct"] = "correct"
    rule: Literal["ptqd", "tac", "affine"] = "affine"
    """``ptqd``: correlated noise, bias per channel, and the variance that is left, of
    which stochastic DDIM injects less (PTQD). ``tac``: factor per channel along the
    quantized trajectory (TAC-Diffusion). ``affine``: least squares, gain per step and
    bias per channel, along the quantized trajectory."""
    num_samples: Annotated[PositiveInt, Field(le=65_536)] = 64
    """Trajectories on which the statistics are taken (PTQD: about 1,024 images)."""
    relative_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """``tac``: lambda_1, the share of the relative error in the fit."""
    ridge: Annotated[float, Field(ge=0)] = 0.1
    """``tac``: lambda_2, the pull towards no correction."""

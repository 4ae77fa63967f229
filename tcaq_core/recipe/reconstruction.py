"""Settings of the passes that decide roundings and scales against block outputs."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tcaq_core.recipe.fields import Iterations, PositiveInt, Settings


class SecondOrder(Settings):
    """Closed-form second-order rounding, layer by layer (OPTQ, 2210.17323).

    Columns are rounded one after another; the error of each is carried over to the
    columns still open through the inverse of E[x x^T]. With ``compensate`` the weight
    is first refitted so that the layer answers as in full precision although its
    input is already quantized.
    """

    kind: Literal["second_order"] = "second_order"
    num_inputs: Annotated[PositiveInt, Field(le=200_000)] = 160
    """Calibration inputs used, spread over trajectories and timesteps (at most)."""
    damping: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Added to the diagonal, as a fraction of its mean (OPTQ: 0.01)."""
    compensate: bool = True


class PAR(Settings):
    """Progressively aligned reconstruction (TCAQ-DM) over AdaRound blocks (BRECQ).

    One base reconstruction on full-precision trajectories, then ``rounds`` more on
    trajectories sampled with the quantized model itself. With ``rounds = 0`` it is
    BRECQ; with ``drop`` and ``learn_ranges`` QDrop; with ``layer_loss`` EDA-DM.
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
    learn_rounding: bool = True
    """Whether roundings are learned at all; without it only scales and biases are."""
    warm_start: bool = True
    """Whether a progressive round starts from the rounding variables before it."""
    teacher: Literal["visited", "paired"] = "visited"
    """What a progressive round's blocks should answer: full precision on the states
    that the quantized model visited, or on full precision's own states from the same
    noise (trajectory matching)."""
    quantize_activations: bool = True
    """Whether activations are quantized while weights are reconstructed."""
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of activation elements left in full precision at random (QDrop: 0.5)."""
    learn_ranges: Literal["off", "joint", "after"] = "off"
    """LSQ on activation scales: never, together with the rounding (QDrop), or in a
    stage of its own after it (BRECQ, Q-Diffusion)."""
    range_iterations: Iterations = 5_000
    """``after``: optimiser steps per block on the scales (BRECQ: 5,000)."""
    range_learning_rate: Annotated[float, Field(gt=0)] = 4e-4
    """Adam's step on the logarithm of the scales, decayed by a cosine."""
    learn_biases: bool = False
    """Whether biases, which stay float32, are adjusted together with the rounding."""
    layer_loss: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the error of every layer inside the block (EDA-DM: 0.8 to 1.0)."""
    focal: Annotated[float, Field(ge=0)] = 0.0
    """Exponent of DMQ's focal timestep weights (1 - share of the loss)^focal; 0: every
    timestep counts the same."""

    @model_validator(mode="after")
    def _learns_something(self) -> "PAR":
        learns = self.learn_rounding or self.learn_biases or self.learn_ranges != "off"
        if not learns:
            raise ValueError(
                "par learns nothing: set learn_rounding, learn_biases or learn_ranges"
            )
        return self

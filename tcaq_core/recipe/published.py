"""The field's published methods as recipes, on one layer set and one budget.

What a paper prescribes stands here; how long it optimises does not: papers run 20,000
iterations on a GPU, these run `BUDGET` on a CPU, all of them the same, so that rows of
a table differ by method. docs/methods.md lists what each leaves out.
"""

from typing import Any, Final

from tcaq_core.recipe.data import Allocate, Select, Split
from tcaq_core.recipe.passes import Pass
from tcaq_core.recipe.ranges import DAQ, TCR, FitRanges, Temporal
from tcaq_core.recipe.recipe import Method
from tcaq_core.recipe.reconstruction import PAR
from tcaq_core.recipe.trajectory import Correct, Modulate

# TFMQ-DM's choice, which TCAQ-DM adopts: the first layer of the time embedding, the
# input and the output convolution keep full precision.
FULL_PRECISION_LAYERS: Final = ("conv_in", "conv_out", "time_embedding.linear_1")
# What TFMQ-DM's released code leaves alone on top of its paper.
TFMQ_CODE_LAYERS: Final = ("*.conv_shortcut", "*.downsamplers.0.conv", "*.attentions.?")
# Rounding variables must cross the same distance in a hundredth of the steps.
LEARNING_RATE: Final = 2e-2
BUDGET: Final[dict[str, Any]] = {
    "rounds": 0,
    "iterations": 100,
    "batch_size": 8,
    "num_inputs": 160,
    "learning_rate": LEARNING_RATE,
}
RANGE_BUDGET: Final[dict[str, Any]] = {
    "range_iterations": 50,
    "range_learning_rate": 2e-3,
}


def _method(*passes: Pass) -> Method:
    return Method(passes=passes, skip=FULL_PRECISION_LAYERS)


def rtn(weight_bits: int, activation_bits: int) -> Method:
    """Round to nearest on min-max ranges: the baseline that every method must beat."""
    del weight_bits, activation_bits
    return _method(FitRanges(weight="min_max", activation="min_max"))


def brecq(weight_bits: int, activation_bits: int) -> Method:
    """BRECQ with AdaRound: rounding learned by blocks, then activation scales."""
    del weight_bits, activation_bits
    par = PAR(
        **BUDGET, **RANGE_BUDGET, quantize_activations=False, learn_ranges="after"
    )
    return _method(FitRanges(), par)


def qdrop(weight_bits: int, activation_bits: int) -> Method:
    """QDrop: BRECQ with half of the activation quantization dropped at random."""
    del weight_bits, activation_bits
    return _method(
        FitRanges(), PAR(**BUDGET, **RANGE_BUDGET, drop=0.5, learn_ranges="joint")
    )


def ptq4dm(weight_bits: int, activation_bits: int) -> Method:
    """PTQ4DM: inputs at normally distributed steps, 100 iterations of QDrop."""
    del weight_bits, activation_bits
    return _method(
        Select(rule="normal", num_inputs=160), FitRanges(), PAR(**BUDGET, drop=0.5)
    )


def qdiffusion(weight_bits: int, activation_bits: int) -> Method:
    """Q-Diffusion: split shortcuts, BRECQ, learned activation scales."""
    del weight_bits, activation_bits
    par = PAR(
        **BUDGET, **RANGE_BUDGET, quantize_activations=False, learn_ranges="after"
    )
    return _method(Split(), FitRanges(), par)


def tfmq(weight_bits: int, activation_bits: int) -> Method:
    """TFMQ-DM: temporal features reconstructed apart, a grid for every sampler step."""
    del weight_bits, activation_bits
    return _method(*_tfmq_passes())


def tfmq_code(weight_bits: int, activation_bits: int) -> Method:
    """TFMQ-DM on the layer set of its released code: fewer layers are quantized."""
    del weight_bits, activation_bits
    skip = (*FULL_PRECISION_LAYERS, *TFMQ_CODE_LAYERS)
    return Method(passes=_tfmq_passes(), skip=skip)


def _tfmq_passes() -> tuple[Pass, ...]:
    return (
        FitRanges(activation="min_max", timesteps="step"),
        Temporal(iterations=300, learning_rate=LEARNING_RATE),
        PAR(**BUDGET, quantize_activations=False),
    )


def ptqd(weight_bits: int, activation_bits: int) -> Method:
    """PTQD: BRECQ, then correlated noise, bias and variance corrected per step."""
    del weight_bits, activation_bits
    par = PAR(**BUDGET, quantize_activations=False)
    return _method(FitRanges(), par, Correct(rule="ptqd"))


def tac(weight_bits: int, activation_bits: int) -> Method:
    """TAC-Diffusion: BRECQ, then a factor per step along the quantized trajectory."""
    del weight_bits, activation_bits
    par = PAR(**BUDGET, quantize_activations=False)
    return _method(FitRanges(), par, Correct(rule="tac"))


def tdq(weight_bits: int, activation_bits: int) -> Method:
    """TDQ: activation grids as a learned function of the timestep, tabulated."""
    del weight_bits, activation_bits
    return _method(FitRanges(timesteps="function"), PAR(**BUDGET))


def apq_dm(weight_bits: int, activation_bits: int) -> Method:
    """APQ-DM: timesteps share eight activation grids by learned assignment."""
    del weight_bits, activation_bits
    return _method(FitRanges(timesteps="groups"), PAR(**BUDGET))


def eda_dm(weight_bits: int, activation_bits: int) -> Method:
    """EDA-DM: calibration by density and variety, layer errors beside the block's."""
    del weight_bits, activation_bits
    par = PAR(
        **BUDGET,
        **RANGE_BUDGET,
        regularizer=0.0,
        drop=0.5,
        learn_ranges="joint",
        layer_loss=1.0,
    )
    return _method(Select(rule="density_variety", num_inputs=160), FitRanges(), par)


def repq(weight_bits: int, activation_bits: int) -> Method:
    """RepQ-ViT: channel reparameterization, percentile ranges, log-root-2 softmax."""
    del weight_bits, activation_bits
    return _method(
        TCR(num_groups=1, target="mean", layers="all"),
        FitRanges(activation="percentile"),
        DAQ(num_groups=1, grids=("log_sqrt2",)),
    )


def adalog(weight_bits: int, activation_bits: int) -> Method:
    """AdaLog: a searched logarithm base for every softmax map."""
    del weight_bits, activation_bits
    return _method(FitRanges(), DAQ(num_groups=1, grids=("adaptive",)), PAR(**BUDGET))


def sq_dm(weight_bits: int, activation_bits: int) -> Method:
    """SQ-DM: mixed precision, sensitive layers get more of the same average bits."""
    del activation_bits
    return _method(
        Allocate(average_weight_bits=weight_bits), FitRanges(), PAR(**BUDGET)
    )


def tmpq_dm(weight_bits: int, activation_bits: int) -> Method:
    """TMPQ-DM: sampler steps and bits chosen together under one budget."""
    del activation_bits
    return _method(
        Allocate(average_weight_bits=weight_bits, steps=(10, 15, 20)),
        FitRanges(),
        PAR(**BUDGET),
    )


def modiff(weight_bits: int, activation_bits: int) -> Method:
    """MoDiff: layers quantize the difference to the step before."""
    del weight_bits, activation_bits
    return _method(FitRanges(), PAR(**BUDGET), Modulate())

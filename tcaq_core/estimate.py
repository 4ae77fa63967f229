"""What a quantization will take before it runs: seconds, memory, bytes; torch-free.

Bytes follow from shapes and bit widths: the stored tensors are listed one by one, and
so is the file's own header. Seconds and memory are a model of the passes: evaluations
of the denoiser on one image, times its multiplications, over a measured rate.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, assert_never

from tcaq_core.network import LayerShape, Network, read_network
from tcaq_core.recipe import (
    DAQ,
    PAR,
    TCR,
    Allocate,
    CalibrationSpec,
    Correct,
    FitRanges,
    Modulate,
    Pass,
    Recipe,
    SecondOrder,
    Select,
    Split,
    Temporal,
)
from tcaq_core.stored import stored_bytes

MULTIPLICATIONS_PER_SECOND: Final = 3.4e10
"""Of one thread of a server's CPU with AVX-512, in float32, small layers included. Take
your own from ``python -m benchmarks.quantize --recipes rtn``: its last line has it."""
# Loading, writing and starting the process that checks the checkpoint: torch's import.
FIXED_SECONDS: Final = {"fetch": 1.0, "save": 1.0, "verify": 8.0}

# A step of reconstruction runs a block forward and backward, three times a forward.
FORWARD_AND_BACKWARD: Final = 3.0
# Capturing a block's input and its two answers, and the losses before and after, for
# all blocks together.
CAPTURES: Final = 6.0
# Searches take as long as so many evaluations of the demo model, data included.
SEARCH_RANGES: Final = {"mse": 3.0, "percentile": 2.0, "min_max": 1.0}
SEARCH_GRIDS: Final = {"output_error": 2.0, "likelihood_ratio": 1.0}
# The layer report runs 32 inputs twice (tcaq_core.signal_noise.NUM_INPUTS).
REPORT_INPUTS: Final = 32
# Layers of a typical denoiser: sensitivities are measured one layer at a time.
TYPICAL_LAYERS: Final = 50.0
# Rounding in second order gathers a matrix of moments for every layer.
MOMENTS: Final = 13.0

# An empty process that has loaded torch and diffusers.
PROCESS_BYTES: Final = 450 * 2**20
FLOAT: Final = 4
# Calibration runs batches of 32 (tcaq_core.calibration.BATCH_SIZE).
BATCH: Final = 32
# What waits beyond this goes to files (tcaq_core.workspace.DEFAULT_BUDGET_BYTES).
WORKSPACE_BYTES: Final = 8 * 2**30
# Float32 weight, codes and dequantized weight are held side by side.
BYTES_PER_WEIGHT: Final = 4 + 1 + 4
# V, its gradient, Adam's two moments, the base, and three temporaries of the forward.
LEARNED_BYTES_PER_WEIGHT: Final = 8 * FLOAT


@dataclass(frozen=True)
class Estimate:
    """What a job is expected to take."""

    seconds: float
    stage_seconds: dict[str, float]
    """By stage, in the order of execution."""
    peak_memory_bytes: int
    """Of the process; with a GPU, roughly what is split between it and the host."""
    denoiser_bytes: int
    """Size of the packed weight file."""
    float32_bytes: int
    """What the denoiser's parameters take in float32."""


def estimate(
    folder: Path, recipe: Recipe, *, rate: float = MULTIPLICATIONS_PER_SECOND
) -> Estimate:
    """Return what quantizing a model folder will take, from its headers alone.

    `rate` is the machine's in multiplications per second.

    Raises:
        TCAQError: the folder is no model that can be quantized.
    """
    network = read_network(folder)
    seconds = {
        name: FIXED_SECONDS.get(name, 0.0) + work * network.multiplications / rate
        for name, work in evaluations(recipe).items()
    }
    return Estimate(
        seconds=sum(seconds.values()),
        stage_seconds=seconds,
        peak_memory_bytes=peak_memory_bytes(network, recipe),
        denoiser_bytes=stored_bytes(network, recipe),
        float32_bytes=FLOAT * network.parameters,
    )


def evaluations(recipe: Recipe) -> dict[str, float]:
    """Return each stage's cost in evaluations of the denoiser on one image.

    Calibration runs every step of every trajectory; most passes run over that data
    again; `par` trains each block, all blocks together being one denoiser, on
    ``batch_size`` images per iteration, and samples new trajectories every round.
    """
    spec = recipe.calibration
    passes: dict[str, float] = {
        item.kind: pass_evaluations(item, spec) for item in recipe.method.passes
    }
    # From the first pass that quantizes on, each is looked at afterwards.
    for kind in list(passes)[list(passes).index("fit_ranges") :]:
        passes[kind] += 2.0 * REPORT_INPUTS
    trajectories = float(spec.num_samples * spec.num_steps)
    return {
        "fetch": 0.0,
        "calibrate": trajectories,
        **passes,
        "save": 0.0,
        "verify": 0.0,
    }


def pass_evaluations(item: Pass, spec: CalibrationSpec) -> float:
    """Return what one pass costs in evaluations of the denoiser on one image."""
    trajectories = float(spec.num_samples * spec.num_steps)
    match item:
        case Select() | TCR():
            work = trajectories
        case Split():
            work = float(BATCH)
        case FitRanges():
            work = SEARCH_RANGES[item.activation] * trajectories
        case DAQ():
            work = SEARCH_GRIDS[item.select] * trajectories
        case Allocate():
            work = TYPICAL_LAYERS * len(item.candidates) * item.num_inputs
        case Temporal():
            # Its layers see one vector a timestep: thousands of steps are one image.
            work = trajectories + item.iterations / 100
        case SecondOrder():
            work = MOMENTS * min(float(item.num_inputs), trajectories)
        case PAR():
            work = _reconstruction(item, trajectories)
        case Modulate() | Correct():
            work = 2.0 * item.num_samples * spec.num_steps
        case _:
            assert_never(item)
    return work


def _reconstruction(item: PAR, trajectories: float) -> float:
    iterations = item.iterations + item.rounds * item.round_iterations
    if item.learn_ranges == "after":
        iterations += (1 + item.rounds) * item.range_iterations
    training = FORWARD_AND_BACKWARD * iterations * item.batch_size
    captured = CAPTURES * min(item.num_inputs, trajectories)
    return training + item.rounds * trajectories + (1 + item.rounds) * captured


def peak_memory_bytes(network: Network, recipe: Recipe) -> int:
    """Return the most that is held at once: weights, data, and the hungriest stage."""
    quantized = _quantized(network, recipe)
    spec = recipe.calibration
    inputs = spec.num_samples * spec.num_steps
    weights = FLOAT * network.parameters
    weights += (BYTES_PER_WEIGHT - FLOAT) * sum(layer.weights for layer in quantized)
    # Recorded one by one, then put in order: two copies for a moment.
    data = 2 * FLOAT * inputs * network.image_values
    working = [
        _reconstruction_bytes(network, quantized, item, inputs)
        for item in recipe.method.passes
        if isinstance(item, PAR)
    ]
    return PROCESS_BYTES + weights + data + max([_forward_bytes(network), *working])


def _quantized(network: Network, recipe: Recipe) -> list[LayerShape]:
    layers = network.layers.items()
    return [layer for name, layer in layers if recipe.bits_of(name) is not None]


def _forward_bytes(network: Network) -> int:
    layers = network.layers.values()
    widest = max((layer.inputs + layer.outputs for layer in layers), default=0)
    maps = max((item.map_values for item in network.attentions.values()), default=0)
    # The kept halves of the U are about what its blocks answer on the way down.
    kept = sum(layer.outputs for layer in layers if layer.name.endswith(".conv2")) // 2
    return BATCH * FLOAT * (kept + 4 * widest + 3 * maps)


def _reconstruction_bytes(
    network: Network, quantized: list[LayerShape], item: PAR, inputs: int
) -> int:
    if not quantized:
        return 0
    used = min(item.num_inputs, inputs)
    blocks: dict[str, list[LayerShape]] = {}
    for layer in quantized:
        blocks.setdefault(layer.block, []).append(layer)
    # Each block's answer on every input: what full precision says is replaced, block
    # by block, by what was reconstructed.
    answers = {name: layers[-1].outputs for name, layers in blocks.items()}
    given = {name: layers[0].inputs for name, layers in blocks.items()}
    # Captured batch by batch, then joined: twice for a moment.
    captured = max(2 * given[name] + answers[name] for name in blocks)
    learned = max(sum(layer.weights for layer in ls) for ls in blocks.values())
    held = FLOAT * used * (sum(answers.values()) + captured)
    held = min(held, WORKSPACE_BYTES)
    return held + LEARNED_BYTES_PER_WEIGHT * learned + _forward_bytes(network) // 2

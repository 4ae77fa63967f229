"""Mixed precision: bits per layer, and sampler steps, under one budget of operations.

Sensitivity s_l(b) is the squared error of the predicted noise with the weight of
layer l alone in b bits (SQ-DM, DAC 2025: block-wise sensitivity; here by layer).
Errors of different layers are taken to add up. Everything starts with the most bits;
the drop with the smallest [s_l(b') - s_l(b)] / [MACs_l (b - b')] is taken until
sum MACs_l b_l / sum MACs_l is within the budget.

With several ``steps`` (TMPQ-DM, 2404.09532) the budget is a trajectory's:
average_weight_bits * MACs * the calibration's steps. A shorter trajectory affords more
bits. Each length gets its allocation, samples a few images with the weights rounded
so, and the one whose images are nearest to full precision's, at the calibration's own
length and from the same noise, is recommended. Not reproduced: TMPQ-DM's non-uniform
timestep sequences and its search by evolution; the sampler's own spacing stays.

A layer whose weight bits an override names keeps them and is outside of the budget:
what somebody pins, the others do not pay for.

Invariant: the budget is met, and nothing but weight bits changes.
"""

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace

from tcaq_core.calibration import CalibrationSet
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.diffusion import Pipeline, sample
from tcaq_core.errors import ModelUnsupported
from tcaq_core.layers import QuantLayer
from tcaq_core.recipe import Allocate, CalibrationSpec, LayerBits, Recipe
from tcaq_core.sensitivity import (
    Costs,
    finite_error,
    multiplications,
    rounded_weights,
    sensitivities,
)

# Images on which sampler lengths are compared.
IMAGES = 8


@dataclass(frozen=True)
class Plan:
    """One sampler length with its bits."""

    num_steps: int
    mean_weight_bits: float
    image_error: float | None
    """Mean squared distance of its images from full precision's, if compared."""
    bits: dict[str, int]


def apply(
    pipeline: Pipeline,
    denoiser: QuantizedDenoiser,
    data: CalibrationSet,
    recipe: Recipe,
    config: Allocate,
    *,
    progress: Callable[[int, int], None],
) -> dict[str, object]:
    """Give every layer its weight bits; return all plans and the one taken.

    Raises:
        ModelUnsupported: the budget is below what the candidates can reach.
        CalibrationFailed: a prediction has NaN or infinite values, or a layer that
            can change never ran.
    """
    spec = recipe.calibration
    layers = dict(denoiser.quant_layers())
    free = [name for name in layers if recipe.chooses_weight_bits(name)]
    inputs = data.thin(config.num_inputs)
    costs = Costs(
        multiplications(denoiser, inputs),
        sensitivities(
            denoiser,
            inputs,
            {
                name: config.candidates if name in free else (layer.bits.weight_bits,)
                for name, layer in layers.items()
            },
            progress=progress,
        ),
    )
    plans = affordable(costs, config, num_steps=spec.num_steps, free=free)
    if len(plans) > 1:
        plans = compare(pipeline, denoiser, plans, spec)
    best = min(plans, key=lambda plan: plan.image_error or 0.0)
    for name, layer in layers.items():
        if best.bits[name] != layer.bits.weight_bits:
            layer.change_bits(_with_weight_bits(layer, best.bits[name]))
    if config.steps:
        denoiser.recommended_steps = best.num_steps
    return {"chosen": asdict(best), "plans": [asdict(plan) for plan in plans]}


def affordable(
    costs: Costs, config: Allocate, *, num_steps: int, free: Collection[str]
) -> list[Plan]:
    """Return a plan for each sampler length that the budget of `num_steps` affords.

    The budget is that of the layers in `free`; the others have one candidate each.

    Raises:
        ModelUnsupported: for none of them.
    """
    plans = []
    fixed = {n: min(e) for n, e in costs.errors.items() if n not in free}
    open_costs = Costs(costs.macs, {n: costs.errors[n] for n in free})
    lengths = sorted(set(config.steps or (num_steps,)))
    for length in lengths:
        found = spend(open_costs, config.average_weight_bits * num_steps / length)
        if found is not None:
            bits = found | fixed
            plans.append(Plan(length, costs.mean_bits(bits), None, bits))
    if not plans:
        least = open_costs.mean_bits({n: min(costs.errors[n]) for n in free})
        raise ModelUnsupported(
            f"A mean of {config.average_weight_bits:g} weight bits over {num_steps} "
            f"steps is out of reach: {least:.2f} bits over {lengths[0]} is the least.",
            hint="Raise allocate.average_weight_bits, or add smaller candidates.",
        )
    return plans


def spend(costs: Costs, budget: float) -> dict[str, int] | None:
    """Return each layer's bits with a mean within the budget; None: out of reach."""
    bits = {name: max(errors) for name, errors in costs.errors.items()}
    # A rounding error of the mean must not cost a layer its bits.
    while bits and costs.mean_bits(bits) > budget * (1 + 1e-9):
        drops = [
            (
                (errors[b] - errors[bits[name]])
                / (costs.macs[name] * (bits[name] - b)),
                name,
                b,
            )
            for name, errors in costs.errors.items()
            for b in errors
            if b < bits[name]
        ]
        if not drops:
            return None
        _, name, b = min(drops)
        bits[name] = b
    return bits


def compare(
    pipeline: Pipeline,
    denoiser: QuantizedDenoiser,
    plans: list[Plan],
    spec: CalibrationSpec,
) -> list[Plan]:
    """Return the plans with the error of their images, activations unquantized."""
    seeds = range(spec.seed, spec.seed + IMAGES)
    exact = sample(pipeline, seeds=seeds, num_steps=spec.num_steps, eta=spec.eta)
    layers = dict(denoiser.quant_layers())
    compared = []
    for plan in plans:
        with rounded_weights(layers, plan.bits):
            images = sample(
                pipeline, seeds=seeds, num_steps=plan.num_steps, eta=spec.eta
            )
        error = float((images - exact).square().double().mean())
        error = finite_error(error, f"sampling in {plan.num_steps} steps")
        compared.append(replace(plan, image_error=error))
    return compared


def _with_weight_bits(layer: QuantLayer, weight_bits: int) -> LayerBits:
    return LayerBits(
        weight_bits=weight_bits, activation_bits=layer.bits.activation_bits
    )

"""Which recorded inputs calibrate the passes after this one.

uniform          as many of every sampler step (Q-Diffusion, 2302.04304).
normal           t_i ~ N(mean T, std T) clamped to the schedule, and one input of each
                 t_i (PTQ4DM, 2211.15736, "NDTC": calibration inputs from the denoising
                 process, skewed towards the clean end).
density_variety  P_t proportional to D_t + lambda V_t, both scaled to [0, 1] over the
                 steps (EDA-DM, 2401.04585, "TDAC"), where F_t are the mid-block
                 features of the same trajectories at step t,
                     D_t = #{t' : MSE(F_t, F_t') <= r_d},
                     V_t = sum over t' of 1 - cos(F_t, F_t').

Invariant: what is selected is a sub-multiset of what was recorded, as many inputs as
asked for, or all of them.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tcaq_core.calibration import BATCH_SIZE, CalibrationSet
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.errors import CalibrationFailed, ModelUnsupported
from tcaq_core.recipe import Select
from tcaq_core.timesteps import SamplerSteps

# EDA-DM sets its radius by hand for each model (3.0 on CIFAR-10, 0.3 on LSUN). Without
# one, a quarter of all pairs of steps count as neighbours.
NEIGHBOURS = 0.25
# Trajectories whose features are compared: each is a whole feature map, so a few tell
# steps apart.
TRAJECTORIES = 16


def apply(
    denoiser: QuantizedDenoiser,
    data: CalibrationSet,
    config: Select,
    *,
    generator: torch.Generator,
) -> CalibrationSet:
    """Return the inputs that the rule keeps, in the order of the data: t falling.

    Raises:
        ModelUnsupported: `density_variety` on a model without a mid block.
        CalibrationFailed: its mid-block features have NaN or infinite values.
    """
    if config.num_inputs >= len(data):
        return data
    steps = SamplerSteps.of_data(data.t)
    available = torch.bincount(steps.index(data.t).cpu(), minlength=len(steps))
    match config.rule:
        case "uniform":
            return data.thin(config.num_inputs)
        case "normal":
            wanted = draw_timesteps(denoiser.num_timesteps, config, generator=generator)
            counts = nearest_counts(steps, wanted, available)
        case "density_variety":
            gram = feature_gram(denoiser, data, steps)
            share = density(gram, config.radius) + config.variety_weight * variety(gram)
            counts = apportion(share, config.num_inputs, available)
    return pick(data, steps, counts, generator=generator)


def count_by_timestep(data: CalibrationSet) -> dict[str, int]:
    """Return how many inputs of each timestep there are, for a report."""
    t, counts = data.t.unique(return_counts=True)
    return {
        str(value): count
        for value, count in zip(
            t.flip(0).tolist(), counts.flip(0).tolist(), strict=True
        )
    }


def draw_timesteps(
    num_timesteps: int, config: Select, *, generator: torch.Generator
) -> Float[Tensor, "M"]:
    """Return draws from N(mean T, std T), clamped to 0 .. T-1."""
    draws = torch.randn(config.num_inputs, generator=generator)
    t = (config.mean + config.std * draws) * num_timesteps
    return t.clamp(0, num_timesteps - 1)


def nearest_counts(
    steps: SamplerSteps, wanted: Float[Tensor, "M"], available: Int[Tensor, "T"]
) -> Int[Tensor, "T"]:
    """Return how often each step is the nearest to a wanted timestep.

    A step gives no more inputs than it has; then the nearest that has some left does.
    """
    visited = torch.tensor(steps.timesteps, dtype=torch.float32)
    left = available.clone()
    for t in wanted:
        distance = (visited - t).abs().masked_fill(left == 0, torch.inf)
        left[distance.argmin()] -= 1
    return available - left


def apportion(
    share: Float[Tensor, "T"], num: int, available: Int[Tensor, "T"]
) -> Int[Tensor, "T"]:
    """Return counts that add up to `num`, as near as can be to proportional.

    One after another goes to the step that is furthest below its quota and has some
    left. All shares equal to zero count as all equal.
    """
    if not bool(share.sum() > 0):
        share = torch.ones_like(share)
    quota = num * share / share.sum()
    counts = torch.zeros_like(available)
    for _ in range(num):
        lacking = (quota - counts).masked_fill(counts >= available, -torch.inf)
        counts[lacking.argmax()] += 1
    return counts


def pick(
    data: CalibrationSet,
    steps: SamplerSteps,
    counts: Int[Tensor, "T"],
    *,
    generator: torch.Generator,
) -> CalibrationSet:
    """Return that many inputs of each step, drawn without replacement, in order."""
    step = steps.index(data.t).cpu()
    chosen = []
    for s, count in enumerate(counts.tolist()):
        at = (step == s).nonzero().flatten()
        chosen.append(at[torch.randperm(len(at), generator=generator)[:count]])
    at = torch.cat(chosen).sort().values.to(data.t.device)
    return CalibrationSet(data.x_t[at], data.t[at])


@torch.no_grad()
def feature_gram(
    denoiser: QuantizedDenoiser, data: CalibrationSet, steps: SamplerSteps
) -> Float[Tensor, "T T"]:
    """Return the mean of F_t F_t' over mid-block features, for every two steps.

    Both D_t and V_t follow from these products, so one trajectory's features are kept
    at a time. Trajectory i is the i-th recorded input of every step.

    Raises:
        ModelUnsupported: the model has no mid block.
        CalibrationFailed: features have NaN or infinite values.
    """
    step = steps.index(data.t)
    rows = [(step == s).nonzero().flatten() for s in range(len(steps))]
    num = min(TRAJECTORIES, *(len(at) for at in rows))
    gram = torch.zeros(len(steps), len(steps), dtype=torch.float64)
    for i in range(num):
        at = torch.stack([row[i] for row in rows])
        path = CalibrationSet(data.x_t[at], data.t[at])
        # Float64: differences of nearly equal features follow from their products.
        features = mid_block_features(denoiser, path).double()
        gram += (features @ features.T).cpu() / features.shape[1]
    if not bool(torch.isfinite(gram).all()):
        raise CalibrationFailed(
            "The mid block's features have NaN or infinite values.",
            hint="Check the model in float32 and the calibration noise.",
        )
    return gram / num


def mid_block_features(
    denoiser: QuantizedDenoiser, data: CalibrationSet
) -> Float[Tensor, "M K"]:
    """Return the mid block's flattened answer to every input, in full precision.

    Raises:
        ModelUnsupported: the model has no mid block.
    """
    block: nn.Module | None = denoiser.unet.mid_block
    if block is None:
        raise ModelUnsupported(
            "This model has no mid block whose features could be compared.",
            hint='Use select.rule="uniform" or "normal".',
        )
    kept: list[Tensor] = []

    def see(_module: nn.Module, _args: tuple[Tensor, ...], out: Tensor) -> None:
        kept.append(out.flatten(1))

    handle = block.register_forward_hook(see)
    try:
        with denoiser.full_precision():
            for batch in data.batches(BATCH_SIZE):
                denoiser(batch.x_t, batch.t)
    finally:
        handle.remove()
    return torch.cat(kept)


def density(gram: Float[Tensor, "T T"], radius: float | None) -> Float[Tensor, "T"]:
    """Return D_t in [0, 1]: how many steps lie within the radius of step t."""
    square = gram.diagonal()
    distance = (square[:, None] + square[None, :] - 2 * gram).clamp(min=0)
    if radius is None:
        above = torch.ones_like(distance).triu(1) > 0
        pairs = distance[above]
        radius = float(pairs.quantile(NEIGHBOURS)) if len(pairs) else 0.0
    return to_unit((distance <= radius).sum(dim=1).float())


def variety(gram: Float[Tensor, "T T"]) -> Float[Tensor, "T"]:
    """Return V_t in [0, 1]: how far the directions of other steps' features are."""
    norm = gram.diagonal().sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    return to_unit((1 - gram / norm[:, None] / norm[None, :]).sum(dim=1))


def to_unit(x: Float[Tensor, "T"]) -> Float[Tensor, "T"]:
    """Map the smallest value to 0 and the largest to 1; equal values to 0."""
    width = x.amax() - x.amin()
    return (x - x.amin()) / width if bool(width > 0) else torch.zeros_like(x)

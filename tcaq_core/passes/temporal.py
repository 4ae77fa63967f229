"""Temporal features kept (TFMQ-DM, 2311.16503): TIAR with FSC, or a cache.

The temporal information block, h (time embedding) with every g_i (its projection in
residual block i), depends on the timestep alone. TIAR is one AdaRound problem over
all of its layers, full batch over the sampler's steps:

    min over V of sum_i |g_i(h(t)) - g^_i(h^(t))|^2 + lambda sum(1 - |2 h(V) - 1|^beta)

FSC gives the activation grids inside the block one row per sampler step. It comes
first, so that the roundings are learned on the grids that will be used. Its ranges
are what full precision shows at the step (min-max, as in the paper) and shrunken ones;
the features of one step depend on that step's rows alone, so each row is chosen by
its own step's error, what fit_ranges chose being a candidate. The learned roundings
are kept only if the summed error did not grow. Then the block is settled: PAR leaves
its codes alone.

The cache (Temporal Feature Matters, 2407.19547) stores the full-precision features of
the sampler's steps in float16; block and quantization error vanish.

Invariant: the temporal features' error, summed over steps, never grows.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tcaq_core.calibration import watching
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.errors import ModelUnsupported, ReconstructionDiverged
from tcaq_core.functional import affine_params, rounding_regularizer
from tcaq_core.layers import QuantLayer
from tcaq_core.learned import AdaRound
from tcaq_core.objective import annealed_beta
from tcaq_core.quantizers import UniformQuantizer
from tcaq_core.recipe import Temporal
from tcaq_core.reconstruction import TICK_EVERY
from tcaq_core.temporal import cache_features, temporal_features, temporal_layers
from tcaq_core.timesteps import SamplerSteps

# FSC's candidates: the lower and the upper end of a step's range times these.
SHRINKS = ((1.0, 1.0), *((a, b) for b in (0.9, 0.8, 0.7, 0.6, 0.5) for a in (1.0, b)))

Features = Mapping[str, Tensor]


def apply(
    denoiser: QuantizedDenoiser,
    steps: SamplerSteps,
    config: Temporal,
    *,
    progress: Callable[[int, int], None],
) -> dict[str, object]:
    """Keep the temporal features at the sampler's steps; return the errors.

    Raises:
        ModelUnsupported: no layer of the block is quantized, see also
            `tcaq_core.temporal.projecting_blocks`.
        CalibrationFailed: features that float16 cannot hold, with the cache.
        ReconstructionDiverged: the loss became NaN or infinite.
    """
    if config.maintenance == "cache":
        return {"cached_numbers": cache_features(denoiser, steps)}
    layers = temporal_layers(denoiser)
    if not layers:
        raise ModelUnsupported(
            "No layer of the time embedding or of its projections is quantized.",
            hint="Leave the temporal pass out of the recipe, or skip fewer layers.",
        )
    # Tables of an earlier pass refer to its steps; there is one set for all tables.
    steps = denoiser.cursor.steps or steps
    t = torch.tensor(steps.timesteps, device=denoiser.unet.device)
    with torch.no_grad(), denoiser.full_precision():
        exact = temporal_features(denoiser, t)
    errors = [_total(denoiser, exact, t)]
    if config.finite_set:
        denoiser.cursor.steps = steps
        fit_finite_set(denoiser, exact, t)
    errors.append(_total(denoiser, exact, t))
    kept = reconstruct(denoiser, exact, t, config, progress=progress)
    for layer in layers.values():
        layer.is_settled = True
    return {
        "error_before": errors[0],
        "error_finite_set": errors[1],
        "error_after": _total(denoiser, exact, t),
        "kept": kept,
    }


@torch.no_grad()
def fit_finite_set(
    denoiser: QuantizedDenoiser, exact: Features, t: Int[Tensor, "T"]
) -> None:
    """Give each activation grid of the block a row per sampler step, layer by layer."""
    quantizers = {
        name: layer.input_quantizer
        for name, layer in temporal_layers(denoiser).items()
        if isinstance(layer.input_quantizer, UniformQuantizer)
    }
    ranges: dict[str, tuple[Tensor, Tensor]] = {}

    def see(name: str, x: Tensor) -> None:
        ranges[name] = torch.aminmax(x.flatten(1), dim=1)

    with denoiser.full_precision(), watching(quantizers, see):
        temporal_features(denoiser, t)
    for name, quantizer in quantizers.items():
        low, high = ranges[name]
        candidates = [_rows_of(quantizer, len(t))]
        for a, b in SHRINKS:
            grid = affine_params(low * a, high * b, num_bits=quantizer.num_bits)
            candidates.append(torch.stack([grid.scale, grid.zero_point], dim=1))
        _choose_rows(denoiser, quantizer, torch.stack(candidates), exact, t)


def _choose_rows(
    denoiser: QuantizedDenoiser,
    quantizer: UniformQuantizer,
    candidates: Float[Tensor, "K T 2"],
    exact: Features,
    t: Int[Tensor, "T"],
) -> None:
    errors = []
    for rows in candidates:
        quantizer.load(rows[:, :1], rows[:, 1:])
        errors.append(feature_errors(temporal_features(denoiser, t), exact))
    best = torch.stack(errors).argmin(dim=0)  # the first of equals: what was there
    rows = candidates[best, torch.arange(len(t), device=best.device)]
    quantizer.load(rows[:, :1], rows[:, 1:])


def _rows_of(quantizer: UniformQuantizer, num_steps: int) -> Float[Tensor, "T 2"]:
    grids = torch.cat([quantizer.scale, quantizer.zero_point], dim=1)
    if quantizer.row_of_step is not None:
        return grids[quantizer.row_of_step]
    return grids.expand(num_steps, 2)


def reconstruct(
    denoiser: QuantizedDenoiser,
    exact: Features,
    t: Int[Tensor, "T"],
    config: Temporal,
    *,
    progress: Callable[[int, int], None],
) -> bool:
    """Learn the block's roundings; return whether they were better and are kept."""
    layers = temporal_layers(denoiser)
    before = _total(denoiser, exact, t)
    codes = {name: layer.codes() for name, layer in layers.items()}
    roundings = {name: layer.open_rounding() for name, layer in layers.items()}
    _optimise(denoiser, list(roundings.values()), exact, t, config, progress=progress)
    for name, layer in layers.items():
        layer.commit(roundings[name].codes())
    kept = _total(denoiser, exact, t) <= before
    if not kept:
        _commit_all(layers, codes)
    return kept


def _commit_all(layers: Mapping[str, QuantLayer], codes: Mapping[str, Tensor]) -> None:
    for name, layer in layers.items():
        layer.commit(codes[name])


def _optimise(
    denoiser: QuantizedDenoiser,
    roundings: list[AdaRound],
    exact: Features,
    t: Int[Tensor, "T"],
    config: Temporal,
    *,
    progress: Callable[[int, int], None],
) -> None:
    optimizer = torch.optim.Adam([r.v for r in roundings], lr=config.learning_rate)
    loss = torch.zeros(())
    for step in range(config.iterations):
        optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad():
            loss = feature_errors(temporal_features(denoiser, t), exact).mean()
            beta = annealed_beta(step, config.iterations, config)
            if beta is not None:
                for r in roundings:
                    penalty = rounding_regularizer(r.soft_rounding(), beta=beta)
                    loss = loss + config.regularizer * penalty
            loss.backward()
        optimizer.step()
        if step % TICK_EVERY == 0:
            progress(step, config.iterations)
    if not bool(torch.isfinite(loss)):
        raise ReconstructionDiverged(
            f"The loss of the temporal features is {float(loss.detach())}.",
            hint="Lower temporal.learning_rate.",
        )


def feature_errors(features: Features, exact: Features) -> Float[Tensor, "T"]:
    """Return |g_i(h(t)) - g^_i(h^(t))|^2 at each t, summed over i."""
    errors = [(features[name] - exact[name]).square().sum(1) for name in exact]
    return torch.stack(errors).sum(0)


@torch.no_grad()
def _total(denoiser: QuantizedDenoiser, exact: Features, t: Int[Tensor, "T"]) -> float:
    errors = feature_errors(temporal_features(denoiser, t), exact)
    return float(errors.double().sum())

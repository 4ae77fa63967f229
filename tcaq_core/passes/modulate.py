"""Modulated quantization: layers quantize temporal differences (MoDiff, ICML 2025).

Activations of neighbouring sampler steps are alike, so their difference has a much
smaller range than they have, and the same number of codes resolves it finer:
a_hat[t] = a_hat[t+1] + Q_t(a[t] - a_hat[t+1]), with feedback of the error.
`tcaq_core.difference` has the equations. The first step has 8 bits and each sample's
own range. Layers that read the time embedding alone, the operands of attention and
the softmax maps keep their plain grids.

``ranges="step"``: the quantized model samples, all trajectories abreast, and each
difference gets its range the moment it first appears; so the errors of all earlier
steps, and of all earlier layers, are in it. Fewer sampler steps than calibrated make
differences wider than these ranges; error feedback then needs steps to catch up.

Invariant: along a trajectory a_hat stays within half a grid step of the input
wherever the difference was inside its range: errors do not accumulate.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tcaq_core.denoiser import QuantizedDenoiser, modulate_input
from tcaq_core.difference import DifferenceQuantizer, differences_in
from tcaq_core.diffusion import Pipeline, sample
from tcaq_core.errors import CalibrationFailed
from tcaq_core.functional import affine_params, fake_quantize
from tcaq_core.quantizers import UniformQuantizer
from tcaq_core.recipe import CalibrationSpec, Modulate
from tcaq_core.temporal import temporal_layers
from tcaq_core.timesteps import SamplerSteps

# Shrink factors of the min-max range, compared by squared error.
SHRINKS = tuple(1 - 0.05 * i for i in range(16))
# Values of each difference that they are compared on.
MAX_VALUES = 2**16


def apply(
    pipeline: Pipeline,
    denoiser: QuantizedDenoiser,
    spec: CalibrationSpec,
    config: Modulate,
    *,
    seed: int,
    progress: Callable[[int, int], None],
) -> dict[str, object]:
    """Let layers quantize differences; return how far their ranges shrank.

    The noise of trajectory i is drawn from seed + i.

    Raises:
        CalibrationFailed: fewer than two sampler steps, or a layer's input is NaN or
            infinite.
    """
    if spec.num_steps < 2:
        raise CalibrationFailed(
            "modulate needs trajectories of at least two steps: one step has no "
            "differences.",
            hint="Set calibration.num_steps to what you will sample with.",
        )
    kept = temporal_layers(denoiser)
    plain: dict[str, UniformQuantizer] = {}
    for name, layer in denoiser.quant_layers():
        quantizer = layer.input_quantizer
        if name not in kept and isinstance(quantizer, UniformQuantizer):
            plain[f"{name}.input_quantizer"] = quantizer
            modulate_input(layer, config.ranges)
    if config.ranges == "dynamic":
        return {"layers": len(plain)}
    calibrate(
        pipeline,
        denoiser,
        spec,
        seeds=range(seed, seed + config.num_samples),
        progress=progress,
    )
    found = differences_in(denoiser.unet)
    return {
        "layers": len(plain),
        "scale_ratio": {n: _ratio(found[n], q) for n, q in plain.items()},
    }


def calibrate(
    pipeline: Pipeline,
    denoiser: QuantizedDenoiser,
    spec: CalibrationSpec,
    *,
    seeds: range,
    progress: Callable[[int, int], None],
) -> None:
    """Fit every difference's grids while the quantized model samples."""
    scheduler = pipeline.inner.scheduler
    scheduler.set_timesteps(spec.num_steps)
    if denoiser.cursor.steps is None:
        visited = {int(t) for t in scheduler.timesteps}
        denoiser.cursor.steps = SamplerSteps(tuple(sorted(visited, reverse=True)))
    tables: dict[str, dict[int, Tensor]] = {}

    def see(name: str, quantizer: DifferenceQuantizer, x: Tensor) -> None:
        _check(name, x)
        before = quantizer.before(x)
        if before is None:
            return
        step = int(denoiser.cursor.step[0])
        rows = tables.setdefault(name, {})
        low, high = _ranges(x - before, quantizer)
        if step in rows:  # where tables know fewer steps, some share a row
            low, high = low.minimum(rows[step][0]), high.maximum(rows[step][1])
        rows[step] = torch.stack([low, high])
        _load(quantizer, rows, num_steps=len(denoiser.cursor.steps or ()))

    with torch.no_grad(), _watching(denoiser.unet, see):
        sample(
            pipeline,
            seeds=seeds,
            num_steps=spec.num_steps,
            eta=spec.eta,
            batch_size=len(seeds),
            progress=progress,
        )


def difference_range(
    difference: Float[Tensor, "M"], *, num_bits: int
) -> Float[Tensor, "2"]:
    """Return the shrunk min-max range whose grid has the smallest squared error."""
    low, high = torch.aminmax(difference)
    values = difference[:: -(-difference.numel() // MAX_VALUES)]
    errors = []
    for shrink in SHRINKS:
        params = affine_params(low * shrink, high * shrink, num_bits=num_bits)
        values_hat = fake_quantize(values, params, num_bits=num_bits)
        errors.append((values_hat - values).square().mean())
    shrink = SHRINKS[int(torch.stack(errors).argmin())]
    return torch.stack([low * shrink, high * shrink])


def _check(name: str, x: Tensor) -> None:
    if not bool(torch.isfinite(x).all()):
        raise CalibrationFailed(
            f"The input of {name} has NaN or infinite values.",
            hint="Check that the plainly quantized model samples sane images.",
        )


def _ranges(difference: Tensor, quantizer: DifferenceQuantizer) -> Float[Tensor, "2 P"]:
    parts = quantizer.parts
    pieces = difference.split(parts, dim=1) if len(parts) > 1 else (difference,)
    ranges = [
        difference_range(p.flatten(), num_bits=quantizer.num_bits) for p in pieces
    ]
    return torch.stack(ranges, dim=1)


def _load(
    quantizer: DifferenceQuantizer, rows: dict[int, Tensor], *, num_steps: int
) -> None:
    # A step without a range of its own (the first; one not visited) takes that of
    # the nearest step: a denser sampler may ask for it.
    if quantizer.grid is None:
        return
    table = [
        rows[min(rows, key=lambda known, s=s: (abs(known - s), known))]  # type: ignore[misc]
        for s in range(num_steps)
    ]
    low, high = torch.stack(table, dim=1)
    quantizer.grid.fit(low, high)


def _ratio(difference: DifferenceQuantizer, plain: UniformQuantizer) -> float | None:
    if difference.grid is None or not plain.is_fitted:
        return None
    return float(difference.grid.scale.mean() / plain.scale.mean())


@contextmanager
def _watching(
    module: nn.Module, see: Callable[[str, DifferenceQuantizer, Tensor], None]
) -> Iterator[None]:
    def hook_of(name: str) -> Callable[..., None]:
        return lambda quantizer, args: see(name, quantizer, args[0])

    handles = [
        quantizer.register_forward_pre_hook(hook_of(name))
        for name, quantizer in differences_in(module).items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

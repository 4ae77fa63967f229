"""What calibration shows of a tensor: its range and its values, step by step."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tcaq_core.calibration import BATCH_SIZE, CalibrationSet, watching
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.errors import CalibrationFailed
from tcaq_core.quantizers import SoftmaxQuantizer, UniformQuantizer
from tcaq_core.timesteps import SamplerSteps

# Values kept per tensor and batch: enough for a 1e-4 quantile over a run.
VALUES_PER_BATCH = 4096
# And in all: the largest calibration sets have thousands of batches.
VALUES_PER_TENSOR = 2**19


@dataclass
class Seen:
    """One tensor, or one part of its channels, over the calibration data."""

    low: Float[Tensor, "T"]
    """The smallest value at each sampler step."""
    high: Float[Tensor, "T"]
    values: list[list[Tensor]]
    """A random sample of the values at each step."""

    def pooled(self) -> Float[Tensor, "M"]:
        """Return the sampled values of all steps."""
        return torch.cat([torch.cat(at_step) for at_step in self.values])


@dataclass
class Observer:
    """Collects what several tensors show, over batches of calibration data."""

    steps: SamplerSteps
    generator: torch.Generator
    values_per_batch: int = VALUES_PER_BATCH
    seen: dict[tuple[str, int], Seen] = field(default_factory=dict)

    def see(self, key: tuple[str, int], x: Tensor, step: Int[Tensor, "N"]) -> None:
        """Add one batch of one tensor; N leads."""
        low, high = torch.aminmax(x.flatten(1), dim=1)
        known = self.seen.get(key) or self._unseen(x)
        self.seen[key] = known
        known.low.scatter_reduce_(0, step, low, "amin")
        known.high.scatter_reduce_(0, step, high, "amax")
        for s in step.unique().tolist():
            flat = x[step == s].flatten()
            share = max(1, self.values_per_batch * int((step == s).sum()) // len(step))
            at = torch.randint(flat.numel(), (share,), generator=self.generator)
            known.values[s].append(flat[at.to(flat.device)])

    def _unseen(self, x: Tensor) -> Seen:
        empty = torch.full((len(self.steps),), torch.inf, device=x.device)
        return Seen(empty, -empty, [[] for _ in range(len(self.steps))])


@torch.no_grad()
def observe(
    denoiser: QuantizedDenoiser,
    data: CalibrationSet,
    quantizers: Mapping[str, UniformQuantizer | SoftmaxQuantizer],
    *,
    generator: torch.Generator,
) -> dict[tuple[str, int], Seen]:
    """Watch what each quantizer would be given, in full precision; by name and part.

    Raises:
        CalibrationFailed: a tensor has NaN or infinite values, or never appeared.
    """
    steps = SamplerSteps.of_data(data.t)
    batches = -(-len(data) // BATCH_SIZE)
    share = max(1, min(VALUES_PER_BATCH, VALUES_PER_TENSOR // batches))
    observer = Observer(steps, generator, share)

    def see(name: str, x: Tensor) -> None:
        step = steps.index(denoiser.cursor.t)
        for part, piece in enumerate(pieces_of(x, quantizers[name])):
            observer.see((name, part), piece, step)

    with denoiser.full_precision(), watching(quantizers, see):
        for batch in data.batches():
            denoiser(batch.x_t, batch.t)
    for name, quantizer in quantizers.items():
        for part in range(num_parts(quantizer)):
            _check(name, observer.seen.get((name, part)))
    return observer.seen


def num_parts(quantizer: UniformQuantizer | SoftmaxQuantizer) -> int:
    """Return how many parts of a tensor have grids of their own."""
    parts = quantizer.parts if isinstance(quantizer, UniformQuantizer) else ()
    return max(1, len(parts))


def pieces_of(
    x: Tensor, quantizer: UniformQuantizer | SoftmaxQuantizer
) -> tuple[Tensor, ...]:
    """Return the parts of a tensor that have grids of their own."""
    if isinstance(quantizer, UniformQuantizer) and len(quantizer.parts) > 1:
        return tuple(x.split(quantizer.parts, dim=1))
    return (x,)


def _check(name: str, found: Seen | None) -> None:
    if found is None:
        raise CalibrationFailed(
            f"{name} never ran during calibration.",
            hint="Add its layer to the recipe's skip list.",
        )
    if not bool(torch.isfinite(found.high - found.low).all()):
        raise CalibrationFailed(
            f"The tensor at {name} has NaN or infinite values.",
            hint="Check the model in float32 and the calibration noise.",
        )

"""Which range a uniform grid should cover, after what calibration showed."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tcaq_core.functional import affine_params, fake_quantize, lp_loss
from tcaq_core.observation import Seen

Criterion = Literal["min_max", "percentile", "mse"]
Range = tuple[Float[Tensor, ""], Float[Tensor, ""]]

# BRECQ's norm.
POWER = 2.4
# RepQ-ViT's candidates.
QUANTILES = (0.999, 0.9999, 0.99999)
# The MSE search over activations shrinks both ends on their own: after SiLU the lower
# end is -0.28 whatever the upper one is.
HIGH_SHRINKS = tuple(1 - 0.04 * i for i in range(20))
LOW_SHRINKS = tuple(1 - 0.1 * i for i in range(8))
# torch.quantile sorts at most 2^24 values; a tenth of that is plenty.
MAX_VALUES = 2**20
# A step whose range is so much narrower than all steps' shows nothing of the tensor.
DEGENERATE = 1e-6
TAIL = 0.25


def shared_range(seen: Seen, criterion: Criterion, *, num_bits: int) -> Range:
    """Return the one range for all timesteps that the criterion prefers."""
    low, high = seen.low.amin(), seen.high.amax()
    return choose_range(seen.pooled(), low, high, criterion, num_bits=num_bits)


def with_tail(
    values: Float[Tensor, "M"], low: Float[Tensor, ""], high: Float[Tensor, ""]
) -> Float[Tensor, "M+2"]:
    """Return a step's sampled values and, at each end, one for the tail it missed.

    A sample of some hundreds makes clipping look harmless. If the tail from the
    sample's largest value q to the true one falls exponentially over a few hundred
    unsampled values, one at q + (high - q) sqrt(2) / ln(300) has its second moment.
    """
    ends = torch.stack([values.amin(), values.amax()])
    missed = ends + TAIL * (torch.stack([low, high]) - ends)
    return torch.cat([values, missed])


def step_ranges(
    seen: Seen, criterion: Criterion, *, num_bits: int
) -> Float[Tensor, "2 T"]:
    """Return each sampler step's own range.

    The shared range is a candidate at every step, so a search never loses to it there.
    A step at which the tensor is as good as zero takes it too.
    """
    shared = shared_range(seen, criterion, num_bits=num_bits)
    narrow = DEGENERATE * float(shared[1].clamp(min=0) - shared[0].clamp(max=0))
    found = []
    for values, low, high in zip(seen.values, seen.low, seen.high, strict=True):
        pair = shared
        if float(high.clamp(min=0) - low.clamp(max=0)) > narrow:
            tail = with_tail(torch.cat(values), low, high)
            pair = choose_range(
                tail, low, high, criterion, num_bits=num_bits, also=shared
            )
        found.append(torch.stack(pair))
    return torch.stack(found, dim=1)


def group_ranges(
    seen: Seen, group_of_step: list[int], criterion: Criterion, *, num_bits: int
) -> Float[Tensor, "2 R"]:
    """Return the range of each group of steps, 0 .. R-1, over what they show pooled."""
    shared = shared_range(seen, criterion, num_bits=num_bits)
    found = []
    for group in range(max(group_of_step) + 1):
        at = [s for s, g in enumerate(group_of_step) if g == group]
        values = torch.cat([torch.cat(seen.values[s]) for s in at])
        low, high = seen.low[at].amin(), seen.high[at].amax()
        pair = choose_range(
            values, low, high, criterion, num_bits=num_bits, also=shared
        )
        found.append(torch.stack(pair))
    return torch.stack(found, dim=1)


def choose_range(
    values: Float[Tensor, "M"],
    low: Float[Tensor, ""],
    high: Float[Tensor, ""],
    criterion: Criterion,
    *,
    num_bits: int,
    also: Range | None = None,
) -> Range:
    """Return the range that the criterion prefers for these values.

    ``min_max`` takes the ends as they are; the searches try `also` too.
    """
    if criterion == "min_max":
        return low, high
    values = values[:: -(-values.numel() // MAX_VALUES)]
    power = 2.0 if criterion == "percentile" else POWER

    def best_of(candidates: list[Range]) -> Range:
        losses = [
            range_loss(values, *c, num_bits=num_bits, power=power) for c in candidates
        ]
        return candidates[int(torch.stack(losses).argmin())]

    if criterion == "percentile":
        candidates = [
            (torch.quantile(values, 1 - q), torch.quantile(values, q))
            for q in QUANTILES
        ]
    else:
        # One end after the other, the wider-ranging one twice: a third of the work of
        # trying every pair.
        highs = [high * b for b in HIGH_SHRINKS]
        _, top = best_of([(low, end) for end in highs])
        bottom, _ = best_of([(low * a, top) for a in LOW_SHRINKS])
        candidates = [(low, top), *((bottom, end) for end in highs)]
    return best_of(candidates if also is None else [*candidates, also])


def range_loss(
    values: Float[Tensor, "M"],
    low: Float[Tensor, ""],
    high: Float[Tensor, ""],
    *,
    num_bits: int,
    power: float,
) -> Float[Tensor, ""]:
    """Return the mean of |error|^power of values on the grid that covers a range."""
    params = affine_params(low, high, num_bits=num_bits)
    values_hat = fake_quantize(values, params, num_bits=num_bits)
    return lp_loss(values_hat, values, power=power, dim=0)

"""Activation grids that follow the timestep: learned on what calibration showed.

`learn_functions` (TDQ, 2306.02316): per tensor a small network of t predicts both ends
of the range; its values at the sampler's steps are what is kept, so it costs nothing
afterwards. `learn_groups` (APQ-DM, 2305.18723): the steps of a tensor share a few
grids, by an assignment that is learned as a softmax and then decided.

All tensors are learned at once: one batched problem instead of dozens of small ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as nnf

from tcaq_core.functional import affine_params, fake_quantize, straight_through
from tcaq_core.observation import Seen
from tcaq_core.ranges import Range, with_tail
from tcaq_core.timesteps import SamplerSteps

# Values of each tensor at each step that learning looks at.
VALUES = 1024
# TDQ: four layers are best in its ablation; its width is not stated.
WIDTH = 64
NUM_LAYERS = 4
FREQUENCIES = 6  # geometric: periods 2, 1, 1/2, ... 1/16 of t / num_timesteps
ITERATIONS = 300
FUNCTION_RATE = 5e-3
# Steps that one iteration looks at: its cost must not grow with the sampler.
STEPS_AT_ONCE = 8
GROUP_RATE = 5e-2
GROUP_NOISE = 0.01  # APQ-DM's start: all groups alike, up to this


@dataclass(frozen=True)
class Tensors:
    """What is learned on: Q tensors at T steps, K sampled values each."""

    values: Float[Tensor, "Q T K"]
    """In units of `width`, so that every tensor weighs the same."""
    width: Float[Tensor, "Q"]
    low: Float[Tensor, "Q"]
    """The ends of the shared range, in units of its `width`; low is at most 0."""
    high: Float[Tensor, "Q"]
    top: Float[Tensor, "Q"]
    """The largest code of each tensor's grid."""


def tensors_of(
    seen: Sequence[Seen],
    shared: Sequence[Range],
    num_bits: Sequence[int],
    *,
    generator: torch.Generator,
) -> Tensors:
    """Return what learning needs of several tensors with their shared ranges."""
    low = torch.stack([pair[0] for pair in shared]).clamp(max=0)
    high = torch.stack([pair[1] for pair in shared]).clamp(min=0)
    # A tensor that is always zero has no width; any will do.
    width = torch.where(high > low, high - low, torch.ones_like(low))
    values = torch.stack([_sampled(s, generator) for s in seen]) / width[:, None, None]
    top = torch.tensor([2**bits - 1.0 for bits in num_bits], device=low.device)
    return Tensors(values, width, low / width, high / width, top)


def _sampled(seen: Seen, generator: torch.Generator) -> Float[Tensor, "T K"]:
    rows = []
    for values, low, high in zip(seen.values, seen.low, seen.high, strict=True):
        flat = torch.cat(values)
        at = torch.randint(flat.numel(), (VALUES - 2,), generator=generator)
        rows.append(with_tail(flat[at.to(flat.device)], low, high))
    return torch.stack(rows)


class RangeFunctions(nn.Module):
    """Q networks of t, run as one: four linear layers, ReLU, softplus at the end.

    They predict factors on the two ends of the shared range. The last layer starts at
    zero weights and the bias that softplus maps to 1: at the shared grid exactly.
    """

    def __init__(self, num_tensors: int, *, generator: torch.Generator) -> None:
        super().__init__()
        sizes = [2 * FREQUENCIES, *[WIDTH] * (NUM_LAYERS - 1), 2]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            # He initialisation, as TDQ has it.
            weight = torch.randn(num_tensors, fan_in, fan_out, generator=generator)
            self.weights.append(nn.Parameter(weight * math.sqrt(2 / fan_in)))
            self.biases.append(nn.Parameter(torch.zeros(num_tensors, 1, fan_out)))
        with torch.no_grad():
            self.weights[-1].zero_()
            self.biases[-1].fill_(math.log(math.e - 1))

    def forward(self, t: Float[Tensor, "T"]) -> Float[Tensor, "2 Q T"]:
        """Return the factors on the lower and on the upper end; t is in [0, 1]."""
        angle = t[:, None] * math.pi * 2.0 ** torch.arange(FREQUENCIES, device=t.device)
        h = torch.cat([angle.sin(), angle.cos()], dim=1)
        h = h.expand(len(self.weights[0]), *h.shape)
        for i in range(NUM_LAYERS):
            h = torch.baddbmm(self.biases[i], h, self.weights[i])
            h = nnf.softplus(h) if i == NUM_LAYERS - 1 else h.relu()
        return h.permute(2, 0, 1)


@torch.enable_grad()
def learn_functions(
    tensors: Tensors,
    steps: SamplerSteps,
    *,
    num_timesteps: int,
    generator: torch.Generator,
) -> Float[Tensor, "2 Q T"]:
    """Return every tensor's range at each step: the networks, tabulated (TDQ).

    The zero point is derived from the two predicted ends, as for any other grid.
    A tensor whose network ends up worse than its shared range keeps that one.
    """
    device = tensors.low.device
    t = torch.tensor(steps.timesteps, device=device) / num_timesteps
    functions = RangeFunctions(len(tensors.low), generator=generator).to(device)
    optimizer = torch.optim.Adam(functions.parameters(), lr=FUNCTION_RATE)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ITERATIONS)
    ends = torch.stack([tensors.low, tensors.high])[:, :, None]
    for _ in range(ITERATIONS):
        at = torch.randperm(len(t), generator=generator)[:STEPS_AT_ONCE].to(device)
        optimizer.zero_grad(set_to_none=True)
        low, high = ends * functions(t[at])
        # Relative errors, so that every tensor learns at the same pace.
        error = range_errors(tensors.values[:, at], low, high, tensors.top).sum(1)
        error.clamp(min=1e-12).log().sum().backward()
        optimizer.step()
        decay.step()
    with torch.no_grad():
        learned = ends * functions(t)
        shared = ends.expand_as(learned)
        errors = [
            range_errors(tensors.values, low, high, tensors.top).sum(1)
            for low, high in (learned, shared)
        ]
        better = (errors[0] < errors[1])[:, None]
        return torch.where(better, learned, shared) * tensors.width[:, None]


def range_errors(
    values: Float[Tensor, "Q T K"],
    low: Float[Tensor, "Q T"],
    high: Float[Tensor, "Q T"],
    top: Float[Tensor, "Q"],
) -> Float[Tensor, "Q T"]:
    """Return the mean squared rounding error at each step, differentiable in the ends.

    The gradient is LSQ's (1902.08153): rounding passes it straight through, and a
    clipped value pulls at the end that clips it.
    """
    floor = torch.finfo(torch.float32).tiny * 2**24
    scale = ((high - low) / top[:, None]).clamp(min=floor)[..., None]
    offset = -low[..., None] / scale
    zero_point = straight_through(offset, offset.round())
    position = values / scale
    codes = straight_through(position, position.round()) + zero_point
    codes = codes.minimum(top[:, None, None]).clamp(min=0)
    return ((codes - zero_point) * scale - values).square().mean(2)


def spread_ranges(
    tensors: Tensors, seen: Sequence[Seen], *, num_groups: int
) -> Float[Tensor, "2 Q G"]:
    """Return G different ranges of each tensor, for groups to choose from.

    They are the min-max ranges of G steps, evenly spaced when ordered by width, each
    shrunk as the shared range is against the min-max range of all steps.
    """
    low = torch.stack([item.low for item in seen]).clamp(max=0)
    high = torch.stack([item.high for item in seen]).clamp(min=0)
    order = (high - low).argsort(dim=1, stable=True)
    last = order.shape[1] - 1
    at = torch.linspace(0, last, min(num_groups, last + 1)).round().long()
    chosen = order[:, at.to(order.device)]
    shared = tensors.low * tensors.width, tensors.high * tensors.width
    ends = []
    for end, widest, goal in zip(
        (low, high), (low.amin(1), high.amax(1)), shared, strict=True
    ):
        shrink = torch.where(widest == 0, torch.ones_like(goal), goal / widest)
        ends.append(end.gather(1, chosen) * shrink[:, None])
    return torch.stack(ends)


@torch.enable_grad()
def learn_groups(
    tensors: Tensors,
    ranges: Float[Tensor, "2 Q G"],
    part_of: Int[Tensor, "Q"],
    *,
    generator: torch.Generator,
) -> Int[Tensor, "A T"]:
    """Return the group of each step, for A assignments (APQ-DM).

    `part_of` says to which assignment a tensor belongs: parts of one tensor share
    theirs. While it is learned, a step's values are the mean of their roundings on all
    grids, weighted by softmax(alpha); the squared error of that mean is a quadratic
    form in the weights, which is computed once.
    """
    form = mixture_form(tensors, ranges)
    count = int(part_of.max()) + 1
    joint = form.new_zeros((count, *form.shape[1:])).index_add_(0, part_of, form)
    alpha = GROUP_NOISE * torch.randn(joint.shape[:3], generator=generator)
    alpha = alpha.to(joint.device).requires_grad_()
    optimizer = torch.optim.Adam([alpha], lr=GROUP_RATE)
    for _ in range(ITERATIONS):
        optimizer.zero_grad(set_to_none=True)
        p = alpha.softmax(-1)
        torch.einsum("atg,atgh,ath->", p, joint, p).backward()
        optimizer.step()
    return alpha.argmax(-1)


def mixture_form(
    tensors: Tensors, ranges: Float[Tensor, "2 Q G"]
) -> Float[Tensor, "Q T G G"]:
    """Return M with error(p) = p^T M p for values mixed from G grids by weights p.

    M_gh is the mean product of the errors on grids g and h (the weights sum to one),
    divided by the tensor's mean squared error, so that all tensors weigh the same.
    """
    forms = []
    for q, values in enumerate(tensors.values):
        bits = int(math.log2(float(tensors.top[q]) + 1))
        low, high = ranges[:, q] / tensors.width[q]
        errors = torch.stack(
            [
                fake_quantize(values, affine_params(a, b, num_bits=bits), num_bits=bits)
                - values
                for a, b in zip(low, high, strict=True)
            ],
            dim=1,
        )  # (T, G, K)
        form = errors @ errors.transpose(1, 2) / values.shape[1]
        mean = form.diagonal(dim1=1, dim2=2).mean()
        forms.append(form / mean.clamp(min=1e-20))
    return torch.stack(forms)

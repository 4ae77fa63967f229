"""Which timestep the denoiser is at, and to which group or sampler step it belongs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class TimestepGroups:
    """An even partition of the training timesteps 0 .. num_timesteps-1.

    It does not depend on the sampler, so a checkpoint calibrated with 20 steps can be
    sampled with 50.
    """

    num_timesteps: int
    num_groups: int

    def of(self, t: Int[Tensor, "*N"]) -> Int[Tensor, "*N"]:
        """Return the group 0 .. num_groups-1 of each timestep."""
        last = self.num_timesteps - 1
        return t.clamp(0, last) * self.num_groups // self.num_timesteps


@dataclass(frozen=True)
class SamplerSteps:
    """The timesteps that the calibrated sampler visits, in its order: falling.

    Tables by sampler step (TFMQ-DM's FSC) are indexed by the nearest of them, so
    another number of steps never silently reads a wrong row.
    """

    timesteps: tuple[int, ...]

    @classmethod
    def of_data(cls, t: Int[Tensor, "M"]) -> "SamplerSteps":
        """Return the distinct timesteps of a calibration set."""
        return cls(tuple(sorted(set(t.tolist()), reverse=True)))

    def __len__(self) -> int:
        return len(self.timesteps)

    def index(self, t: Int[Tensor, "*N"]) -> Int[Tensor, "*N"]:
        """Return the step 0 .. len-1 nearest to each timestep; ties go to the later."""
        return len(self) - 1 - torch.bucketize(t.double(), _between(self, t.device))


@cache
def _between(steps: SamplerSteps, device: torch.device) -> Float[Tensor, "S"]:
    # Kept on the device: a CUDA graph cannot hold a copy from the host.
    rising = torch.tensor(steps.timesteps[::-1], dtype=torch.float64, device=device)
    return (rising[1:] + rising[:-1]) / 2


class TimestepCursor:
    """The one mutable cell that tells quantizers which timestep is being denoised.

    One writer (the denoiser's forward, or a reconstruction step), many readers.
    """

    def __init__(self) -> None:
        self._t: Tensor | None = None
        self._step: Tensor | None = None
        self.steps: SamplerSteps | None = None
        """The steps that tables refer to; set by the first pass that makes one."""

    @property
    def t(self) -> Int[Tensor, "N"]:
        """The timestep of every sample of the current batch.

        Raises:
            RuntimeError: read outside of `at`.
        """
        if self._t is None:
            raise RuntimeError("a timestep-dependent quantizer ran outside a forward")
        return self._t

    @property
    def step(self) -> Int[Tensor, "N"]:
        """The calibrated sampler step nearest to every sample's timestep.

        Raises:
            RuntimeError: read outside of `at`, or no steps are set.
        """
        if self.steps is None:
            raise RuntimeError("a table by sampler step is used, but no steps are set")
        if self._step is None:
            self._step = self.steps.index(self.t)
        return self._step

    @contextmanager
    def at(self, t: Int[Tensor, "N"]) -> Iterator[None]:
        """Set the timesteps for the duration of a block; nesting raises."""
        if self._t is not None:
            raise RuntimeError("the timestep cursor has one writer at a time")
        self._t = t
        try:
            yield
        finally:
            self._t = self._step = None

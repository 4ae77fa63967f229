"""Which timestep the denoiser is at, and to which group it belongs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from jaxtyping import Int
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


class TimestepCursor:
    """The one mutable cell that tells quantizers which timestep is being denoised.

    One writer (the denoiser's forward, or a reconstruction step), many readers.
    """

    def __init__(self) -> None:
        self._t: Tensor | None = None

    @property
    def t(self) -> Int[Tensor, "N"]:
        """The timestep of every sample of the current batch.

        Raises:
            RuntimeError: read outside of `at`.
        """
        if self._t is None:
            raise RuntimeError("a timestep-dependent quantizer ran outside a forward")
        return self._t

    @contextmanager
    def at(self, t: Int[Tensor, "N"]) -> Iterator[None]:
        """Set the timesteps for the duration of a block; nesting raises."""
        if self._t is not None:
            raise RuntimeError("the timestep cursor has one writer at a time")
        self._t = t
        try:
            yield
        finally:
            self._t = None

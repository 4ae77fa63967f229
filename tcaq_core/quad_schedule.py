"""DDIM over the quadratic timesteps of the CIFAR-10 protocol.

diffusers' DDIM scheduler assumes evenly spaced timesteps: it takes the previous one to
be T / n earlier. Here the chain is respaced instead, as in Improved DDPM (2102.09672,
section 4): a scheduler that has only the visited timesteps, whose steps are adjacent.
Its formulas are diffusers' own.
"""

from math import sqrt
from typing import Any

import torch
from diffusers import DDIMScheduler
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from torch import Tensor


def quad_timesteps(num_steps: int, *, num_timesteps: int) -> tuple[int, ...]:
    """Return the timesteps of DDIM's quadratic schedule, rising (2010.02502, D.3).

    t_i = floor((i / (n - 1) * sqrt(0.8 T))^2), i = 0 .. n - 1. The smallest repeat
    themselves where there are many steps; from a timestep to itself a DDIM step
    changes nothing, so each is visited once: 100 steps of 1,000 are 96 evaluations.
    """
    last = sqrt(0.8 * num_timesteps)
    # As numpy.linspace has it, which the authors' code calls: one multiplication and
    # the end as it is. Otherwise 288 comes out as 287.999..., and is another timestep.
    spacing = last / max(num_steps - 1, 1)
    # One step alone starts where the noise is: at the largest.
    roots = (*(i * spacing for i in range(num_steps - 1)), last)
    return tuple(sorted({int(root * root) for root in roots}))


class QuadDDIMScheduler(DDIMScheduler):  # type: ignore[misc] # diffusers has no types
    """A DDIM scheduler that visits `quad_timesteps`; build it with ``from_config``."""

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None
    ) -> None:
        """Choose the timesteps to visit, falling."""
        total = int(self.config.num_train_timesteps)
        rising = quad_timesteps(num_inference_steps, num_timesteps=total)
        self.num_inference_steps = num_inference_steps
        self._rising = rising
        self.timesteps = torch.tensor(rising[::-1], device=device)
        self._respaced = DDIMScheduler.from_config(
            self.config, num_train_timesteps=len(rising), trained_betas=None
        )
        # Only the visited timesteps: the one before is the neighbour.
        self._respaced.alphas_cumprod = self.alphas_cumprod[list(rising)]
        self._respaced.final_alpha_cumprod = self.final_alpha_cumprod
        self._respaced.num_inference_steps = len(rising)

    def previous_timestep(self, timestep: int) -> int:
        """Return the timestep that is visited after this one; -1 after the last."""
        position = self._rising.index(timestep)
        return self._rising[position - 1] if position else -1

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | int,
        sample: Tensor,
        **others: Any,  # noqa: ANN401 - diffusers' own arguments, passed on
    ) -> DDIMSchedulerOutput:
        """Return the sample at the next timestep visited, by diffusers' formulas."""
        position = self._rising.index(int(timestep))
        return self._respaced.step(model_output, position, sample, **others)

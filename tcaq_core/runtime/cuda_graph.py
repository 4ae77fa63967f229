"""A whole forward as one CUDA graph: a launch, where there were hundreds.

A small denoiser on a fast GPU waits for Python, not for kernels. A graph holds the
kernels of one forward with their addresses; what changes between sampler steps, the
sample and the timestep, is copied to where the first forward read it. Every grid is
looked up on the device from that timestep, so a replay is right for any timestep.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor

from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.runtime.integer import Execution

# Graphs share their memory, but each keeps its output and its place in it.
MAX_GRAPHS = 8
# The first forward compiles and tunes kernels, the second one is as all others.
WARM_UP = 2


class NotCapturable(RuntimeError):
    """A forward that no CUDA graph can hold; the text says why."""


def replay_forwards(denoiser: QuantizedDenoiser, execution: Execution) -> "GraphedUNet":
    """Let a denoiser's forwards be replayed from CUDA graphs from now on, in place.

    Call it after `compile_integer` and after the last change of weights or grids: a
    graph reads them where they were.

    Raises:
        NotCapturable: not on a CUDA device, or some of it runs simulated.
    """
    device = denoiser.unet.device
    if device.type != "cuda":
        raise NotCapturable(f"CUDA graphs need a CUDA device, not {device.type}")
    if execution.kind != "integer" or execution.simulated_layers:
        simulated = ", ".join(execution.simulated_layers) or "every layer"
        raise NotCapturable(
            f"simulated layers ask the device for numbers on the way: {simulated}"
        )
    graphed = GraphedUNet(denoiser.unet.forward)
    denoiser.unet.forward = graphed
    return graphed


@dataclass(frozen=True)
class CapturedForward:
    """One forward's kernels, and where they read and write."""

    graph: torch.cuda.CUDAGraph
    sample: Tensor
    timestep: Tensor
    out: Tensor

    def replay(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """Return the forward's output for other numbers of the same shape."""
        self.sample.copy_(sample)
        self.timestep.copy_(timestep)
        self.graph.replay()
        return self.out.clone()


class GraphedUNet:
    """A UNet's forward that captures each new shape once and then replays it.

    Executed as it was: forwards with gradients, with class labels, on several
    timesteps at once, or of a shape beyond the first `max_graphs`. One forward
    at a time: the graphs share their inputs' memory.
    """

    def __init__(
        self, forward: Callable[..., Any], *, max_graphs: int = MAX_GRAPHS
    ) -> None:
        self.forward = forward
        self.max_graphs = max_graphs
        self.captured: dict[tuple[object, ...], CapturedForward] = {}
        self._pool: Any = None

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        return_dict: bool = True,  # noqa: FBT001, FBT002  (diffusers' signature)
    ) -> UNet2DOutput | tuple[Tensor, ...]:
        """Return what the forward returns."""
        if class_labels is None and not torch.is_grad_enabled():
            t = _single(timestep)
            captured = None if t is None else self._captured(sample, t)
            if captured is not None and t is not None:
                out = captured.replay(sample, t)
                return UNet2DOutput(sample=out) if return_dict else (out,)
        plain: UNet2DOutput | tuple[Tensor, ...] = self.forward(
            sample, timestep, class_labels, return_dict=return_dict
        )
        return plain

    def forget(self) -> None:
        """Drop every graph: weights or grids are about to change."""
        self.captured.clear()
        self._pool = None

    def _captured(self, sample: Tensor, t: Tensor) -> CapturedForward | None:
        key = (tuple(sample.shape), sample.dtype, t.dtype)
        if key not in self.captured and len(self.captured) < self.max_graphs:
            self.captured[key] = self._capture(sample, t)
        return self.captured.get(key)

    def _capture(self, sample: Tensor, t: Tensor) -> CapturedForward:
        if sample.device.type != "cuda":
            raise NotCapturable(f"a sample on {sample.device} in a CUDA graph")
        with torch.cuda.device(sample.device):
            sample = sample.detach().clone()
            t = t.to(sample.device, copy=True)
            # Elsewhere than on the default stream, as capturing asks for.
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    self.forward(sample, t, return_dict=False)
            torch.cuda.current_stream().wait_stream(side)
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                out = self.forward(sample, t, return_dict=False)[0]
        return CapturedForward(graph, sample, t, out)


def _single(timestep: Tensor | float) -> Tensor | None:
    """Return the one timestep of a batch, of shape (1,); None if there are several."""
    t = torch.as_tensor(timestep).reshape(-1)
    # Compared where it is: on the device only if the caller gave several.
    if t.numel() > 1 and bool((t != t[0]).any()):
        return None
    return t[:1]

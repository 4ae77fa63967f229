"""Calibration data, and what the denoiser's layers and blocks do with it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.diffusion import Pipeline, sample
from tcaq_core.errors import CalibrationFailed
from tcaq_core.recipe import CalibrationSpec
from tcaq_core.workspace import Shelf, Workspace

BATCH_SIZE = 32


@dataclass(frozen=True)
class CalibrationSet:
    """The denoiser's inputs at every step of several sampling trajectories."""

    x_t: Float[Tensor, "M C H W"]
    t: Int[Tensor, "M"]

    def __len__(self) -> int:
        return self.x_t.shape[0]

    def batches(self, batch_size: int = BATCH_SIZE) -> Iterator["CalibrationSet"]:
        """Yield the set in order, in slices; each has few distinct timesteps."""
        for start in range(0, len(self), batch_size):
            at = slice(start, start + batch_size)
            yield CalibrationSet(self.x_t[at], self.t[at])

    def thin(self, num: int) -> "CalibrationSet":
        """Return `num` inputs spread evenly over trajectories and timesteps."""
        if num >= len(self):
            return self
        at = torch.linspace(0, len(self) - 1, num).round().long()
        return CalibrationSet(self.x_t[at], self.t[at])


def record_trajectories(
    pipeline: Pipeline,
    spec: CalibrationSpec,
    *,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> CalibrationSet:
    """Run the pipeline's own sampler and keep every input of its denoiser.

    Ordered by step, then by trajectory. Sampling with a quantized denoiser records
    the states that quantized sampling visits (PAR).

    Raises:
        CalibrationFailed: the sampler produced NaN or infinite values.
    """
    inputs: list[Tensor] = []
    timesteps: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
        del module
        x_t, timestep = args[0], torch.as_tensor(args[1]).long()
        inputs.append(x_t.detach().clone())
        timesteps.append(timestep.reshape(-1).expand(x_t.shape[0]).clone())

    handle = pipeline.denoiser.register_forward_pre_hook(keep)
    try:
        images = sample(
            pipeline,
            seeds=range(seed, seed + spec.num_samples),
            num_steps=spec.num_steps,
            eta=spec.eta,
            progress=progress,
        )
    finally:
        handle.remove()
    if not bool(torch.isfinite(images).all()):
        raise CalibrationFailed(
            "Sampling for calibration produced NaN or infinite values.",
            hint="Check that the model samples sane images in float32.",
        )
    x_t, t = torch.cat(inputs), torch.cat(timesteps).to(inputs[0].device)
    order = torch.argsort(t, descending=True, stable=True)
    return CalibrationSet(x_t[order], t[order])


@contextmanager
def watching_all(
    modules: Mapping[str, nn.Module], see: Callable[[str, tuple[Tensor, ...]], None]
) -> Iterator[None]:
    """Call `see(name, inputs)` whenever one of the modules runs."""

    def hook_of(name: str) -> Callable[..., None]:
        return lambda _module, args: see(name, args)

    handles = [
        module.register_forward_pre_hook(hook_of(name))
        for name, module in modules.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def watching(
    modules: Mapping[str, nn.Module], see: Callable[[str, Tensor], None]
) -> AbstractContextManager[None]:
    """Call `see(name, input)` whenever one of the modules runs; one input each."""
    return watching_all(modules, lambda name, inputs: see(name, inputs[0]))


@dataclass(frozen=True)
class BlockIO:
    """What a block was given and what it should answer, for M calibration inputs."""

    inputs: tuple[Tensor, ...]
    """The block's positional arguments, as the quantized predecessors produce them."""
    target: Tensor
    """The full-precision block's answer on full-precision inputs."""
    t: Int[Tensor, "M"]
    layers: Mapping[str, Tensor] = field(default_factory=dict)
    """The same for layers inside the block, where their errors count too (EDA-DM)."""


class _Reached(Exception):
    """Raised to leave a forward once the block of interest was reached."""


@dataclass
class BlockReplay:
    """Captures each block's inputs once, replaying the blocks already finished.

    A finished block's output on the calibration inputs is kept, so the next capture
    costs the glue between blocks instead of the whole prefix: linear in depth where
    running the prefix again would be quadratic.
    """

    denoiser: QuantizedDenoiser
    data: CalibrationSet
    workspace: Workspace = field(default_factory=Workspace)
    finished: Shelf = field(init=False)

    def __post_init__(self) -> None:
        self.finished = self.workspace.shelf(rows=len(self.data))

    @torch.no_grad()
    def inputs_of(self, name: str, *, beside: int = 0) -> tuple[Tensor, ...]:
        """Return the positional arguments with which a block is called.

        Raises:
            OutOfMemory: the budget has no room for them, with `beside` bytes more.
        """
        block = self.denoiser.blocks()[name]
        kept: list[Tensor] = []
        start = 0

        def stop(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            del module
            if not kept:
                rows = len(self.data)
                kept.extend(self.workspace.claim(name, args, rows=rows, beside=beside))
            for whole, argument in zip(kept, args, strict=True):
                whole[start : start + len(argument)] = argument
            raise _Reached

        handle = block.register_forward_pre_hook(stop)
        try:
            for batch in self.data.batches():
                at = slice(start, start + len(batch))
                with self._replaying(at), suppress(_Reached):
                    self.denoiser(batch.x_t, batch.t)
                start += len(batch)
        finally:
            handle.remove()
        return tuple(kept)

    @torch.no_grad()
    def finish(self, name: str, inputs: tuple[Tensor, ...]) -> None:
        """Run a block on its captured inputs and remember its output."""
        block = self.denoiser.blocks()[name]
        start = 0
        for batch in self.data.batches():
            at = slice(start, start + len(batch))
            with self.denoiser.cursor.at(batch.t):
                output = block(*(argument[at] for argument in inputs))
            self.finished.fill(name, start, output)
            start += len(batch)

    @contextmanager
    def _replaying(self, at: slice) -> Iterator[None]:
        blocks = self.denoiser.blocks()

        def replay_of(name: str) -> Callable[..., Tensor]:
            return lambda *_args, **_kwargs: self.finished.rows(name, at)

        for name in self.finished:
            blocks[name].forward = replay_of(name)
        try:
            yield
        finally:
            for name in self.finished:
                del blocks[name].forward


@torch.no_grad()
def full_precision_outputs(
    denoiser: QuantizedDenoiser,
    data: CalibrationSet,
    workspace: Workspace | None = None,
) -> Shelf:
    """Return every block's full-precision answer, in the order of execution.

    Registration order differs from it: a UNet registers attentions before residual
    blocks, and its first up block runs after its last down block.
    """
    kept = (workspace or Workspace()).shelf(rows=len(data))
    start = 0

    def hook_of(name: str) -> Callable[..., None]:
        return lambda _module, _args, out: kept.fill(name, start, out)

    handles = [
        block.register_forward_hook(hook_of(name))
        for name, block in denoiser.blocks().items()
    ]
    try:
        with denoiser.full_precision():
            for batch in data.batches():
                denoiser(batch.x_t, batch.t)
                start += len(batch)
    finally:
        for handle in handles:
            handle.remove()
    return kept

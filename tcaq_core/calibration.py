"""Calibration data, and what the denoiser's layers and blocks do with it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.diffusion import Pipeline, sample
from tcaq_core.errors import CalibrationFailed
from tcaq_core.recipe import CalibrationSpec

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
    finished: dict[str, list[Tensor]] = field(default_factory=dict)

    @torch.no_grad()
    def inputs_of(self, name: str) -> tuple[Tensor, ...]:
        """Return the positional arguments with which a block is called."""
        block = self.denoiser.blocks()[name]
        kept: list[tuple[Tensor, ...]] = []

        def stop(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            del module
            kept.append(tuple(argument.clone() for argument in args))
            raise _Reached

        handle = block.register_forward_pre_hook(stop)
        try:
            for index, batch in enumerate(self.data.batches()):
                with self._replaying(index):
                    try:
                        self.denoiser(batch.x_t, batch.t)
                    except _Reached:
                        continue
        finally:
            handle.remove()
        return tuple(torch.cat(column) for column in zip(*kept, strict=True))

    @torch.no_grad()
    def finish(self, name: str, inputs: tuple[Tensor, ...]) -> Tensor:
        """Run a block on its captured inputs and remember its output."""
        block = self.denoiser.blocks()[name]
        outputs = []
        start = 0
        for batch in self.data.batches():
            at = slice(start, start + len(batch))
            start += len(batch)
            with self.denoiser.cursor.at(batch.t):
                outputs.append(block(*(argument[at] for argument in inputs)))
        self.finished[name] = outputs
        return torch.cat(outputs)

    @contextmanager
    def _replaying(self, index: int) -> Iterator[None]:
        blocks = self.denoiser.blocks()
        for name, outputs in self.finished.items():
            blocks[name].forward = lambda *_args, _y=outputs[index], **_kw: _y
        try:
            yield
        finally:
            for name in self.finished:
                del blocks[name].forward


@torch.no_grad()
def full_precision_outputs(
    denoiser: QuantizedDenoiser, data: CalibrationSet
) -> dict[str, Tensor]:
    """Return every block's full-precision answer, in the order of execution.

    Registration order differs from it: a UNet registers attentions before residual
    blocks, and its first up block runs after its last down block.
    """
    kept: dict[str, list[Tensor]] = {}

    def hook_of(name: str) -> Callable[..., None]:
        return lambda _m, _args, out: kept.setdefault(name, []).append(out.detach())

    handles = [
        block.register_forward_hook(hook_of(name))
        for name, block in denoiser.blocks().items()
    ]
    try:
        with denoiser.full_precision():
            for batch in data.batches():
                denoiser(batch.x_t, batch.t)
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(parts) for name, parts in kept.items()}

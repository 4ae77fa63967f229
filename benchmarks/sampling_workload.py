"""What the sampling benchmark measures: engines, and the work that all of them do."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

import torch
from torch import Tensor

from benchmarks.sampling_models import NUM_STEPS
from tcaq_core.model_folder import inspect_model_folder

FLOAT32: Final = "diffusers-float32"
BFLOAT16: Final = "diffusers-bfloat16"
COMPILED: Final = "diffusers-bfloat16-compiled"
OPENVINO: Final = "openvino-bfloat16"
INT8: Final = "tcaq-int8"
ENGINES: Final = (FLOAT32, BFLOAT16, COMPILED, OPENVINO, INT8)

Forward = Callable[[Tensor, Tensor], Tensor]
"""Takes x_t (N, C, H, W) and t (); returns eps (N, C, H, W)."""


class EngineUnavailable(RuntimeError):
    """An engine cannot run here; the message says why and what would help."""


@dataclass(frozen=True)
class Workload:
    """What every engine computes: one model on the same noise and timesteps."""

    model: Path
    batch: int
    device: torch.device
    threads: int
    seed: int
    checkpoint: Path | None = None
    """What `tcaq-int8` runs."""
    intermediate: Path | None = None
    """The .xml file that `openvino-bfloat16` runs."""

    def timesteps(self) -> list[Tensor]:
        """Return timesteps as samplers hand them on: () each, falling."""
        scheduler = inspect_model_folder(self.model).scheduler
        config = json.loads(scheduler.read_text(encoding="utf-8"))
        stride = int(config["num_train_timesteps"]) // NUM_STEPS
        falling = [step * stride for step in reversed(range(NUM_STEPS))]
        return [torch.tensor(t, device=self.device) for t in falling]

    def noise(self, shape: tuple[int, ...]) -> Tensor:
        """Return x_t: the batch times that shape, float32."""
        generator = torch.Generator().manual_seed(self.seed)
        x_t = torch.randn((self.batch, *shape), generator=generator)
        return x_t.to(self.device)


@dataclass(frozen=True)
class Engine:
    """A denoiser that is ready to run."""

    name: str
    weight_bits: int
    activation_bits: int
    forward: Forward
    dtype: torch.dtype
    """Of the x_t that it takes."""
    shape: tuple[int, int, int]
    weight_bytes: int
    note: str
    """What really runs: layout, kernels, precision."""

    @property
    def label(self) -> str:
        """What tells engines of one run apart."""
        return f"{self.name} W{self.weight_bits}A{self.activation_bits}"


def timed(call: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, float]:
    """Return what a call returns and the seconds until the device is done with it."""
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        result = call()
        end.record()
        torch.cuda.synchronize(device)
        return result, begin.elapsed_time(end) / 1000
    start = perf_counter()
    result = call()
    return result, perf_counter() - start

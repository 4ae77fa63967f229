"""The engines that the sampling benchmark compares: one function, five ways to run it.

Every baseline gets what makes it fast: the better of two memory layouts, freezing or
CUDA graphs under torch.compile, a fixed shape and one stream under OpenVINO.
"""

import statistics
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from benchmarks.sampling_openvino import build_openvino
from benchmarks.sampling_workload import (
    COMPILED,
    FLOAT32,
    INT8,
    OPENVINO,
    Engine,
    EngineUnavailable,
    Forward,
    Workload,
    timed,
)
from tcaq_core import checkpoint
from tcaq_core.diffusion import load_pipeline
from tcaq_core.runtime.cuda_graph import replay_forwards
from tcaq_core.runtime.integer import compile_integer
from tcaq_core.runtime.kernels import Kernels

LAYOUTS: Final = {
    "contiguous": torch.contiguous_format,
    "channels last": torch.channels_last,
}


def build(name: str, work: Workload, *, kernels: Kernels | None = None) -> Engine:
    """Return a ready engine; `kernels` are for `tcaq-int8` alone.

    Raises:
        EngineUnavailable: it cannot run here.
        TCAQError: the model or the checkpoint is refused.
    """
    if name == INT8:
        return _integer(work, kernels)
    if name == OPENVINO:
        return build_openvino(work)
    dtype = torch.float32 if name == FLOAT32 else torch.bfloat16
    return _diffusers(name, work, dtype)


def _diffusers(name: str, work: Workload, dtype: torch.dtype) -> Engine:
    pipeline = load_pipeline(work.model, device=work.device)
    unet = pipeline.denoiser
    for parameter in unet.parameters():
        # A copy also for float32: the file that was loaded would stay mapped.
        parameter.data = parameter.data.to(dtype, copy=True)
    x_t = work.noise(pipeline.image_shape).to(dtype)
    layout = _faster_layout(unet, x_t, work.timesteps()[0])
    size = sum(p.numel() * p.element_size() for p in unet.parameters())

    forward, note = _predicting(unet), layout
    if name == COMPILED:
        forward, mode = _compiled(forward, work, x_t)
        note = f"{layout}, {mode}"
    bits = torch.finfo(dtype).bits
    return Engine(name, bits, bits, forward, dtype, pipeline.image_shape, size, note)


@torch.no_grad()
def _faster_layout(unet: nn.Module, x_t: Tensor, t: Tensor) -> str:
    """Leave a network in the memory layout that runs faster and return its name."""
    seconds = {}
    for name, layout in LAYOUTS.items():
        unet.to(memory_format=layout)  # type: ignore[call-overload]
        unet(x_t, t)
        seconds[name] = statistics.median(
            timed(partial(unet, x_t, t), x_t.device)[1] for _ in range(3)
        )
    best = min(seconds, key=lambda name: seconds[name])
    unet.to(memory_format=LAYOUTS[best])  # type: ignore[call-overload]
    return best


@torch.no_grad()
def _compiled(forward: Forward, work: Workload, x_t: Tensor) -> tuple[Forward, str]:
    is_cuda = work.device.type == "cuda"
    # Both are the strongest that inductor has for inference on the device.
    options: dict[str, Any] = (
        {"mode": "max-autotune"} if is_cuda else {"options": {"freezing": True}}
    )
    compiled = torch.compile(forward, dynamic=False, **options)
    try:
        for t in work.timesteps():
            compiled(x_t, t)
    except TorchDynamoException as error:
        first = str(error).strip().splitlines()[0]
        raise EngineUnavailable(
            f"torch.compile failed ({first}); on a CPU it needs g++."
        ) from error
    return compiled, "max-autotune" if is_cuda else "inductor, frozen"


def _integer(work: Workload, kernels: Kernels | None) -> Engine:
    if work.checkpoint is None:
        raise EngineUnavailable("There is no checkpoint to run.")
    loaded = checkpoint.load(work.checkpoint, device=work.device)
    execution = compile_integer(loaded.denoiser, kernels=kernels)
    if execution.kind != "integer":
        raise EngineUnavailable(
            f"The checkpoint would run simulated: {execution.note or execution}."
        )

    note = f"{execution.kernels}, {execution.integer_layers} integer layers"
    # A recorder has to see every call; users' forwards are replayed.
    if work.device.type == "cuda" and kernels is None:
        replay_forwards(loaded.denoiser, execution)
        note += ", CUDA graph"
    if execution.simulated_layers:
        note += f", {len(execution.simulated_layers)} simulated"
    recipe = loaded.manifest.recipe
    return Engine(
        INT8,
        recipe.weight_bits,
        recipe.activation_bits,
        _predicting(loaded.denoiser.unet),
        torch.float32,
        loaded.pipeline.image_shape,
        (work.checkpoint / checkpoint.WEIGHTS).stat().st_size,
        note if execution.note is None else f"{note}; {execution.note}",
    )


def _predicting(unet: nn.Module) -> Forward:
    def forward(x_t: Tensor, t: Tensor) -> Tensor:
        eps: Tensor = unet(x_t, t, return_dict=False)[0]
        return eps

    return forward

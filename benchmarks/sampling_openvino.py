"""OpenVINO as a baseline of the sampling benchmark; an optional package."""

import importlib
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from benchmarks.sampling_workload import OPENVINO, Engine, EngineUnavailable, Workload
from tcaq_core.diffusion import load_pipeline

INSTALL: Final = "pip install -c constraints.txt -e '.[bench]'"


def convert_for_openvino(work: Workload, out: Path) -> Path:
    """Write a model as OpenVINO's .xml and .bin, for one batch size.

    Raises:
        EngineUnavailable: not on this device, or OpenVINO is not installed.
    """
    openvino = import_openvino(work.device)
    pipeline = load_pipeline(work.model, device=work.device)
    unet = pipeline.denoiser
    x_t = work.noise(pipeline.image_shape)
    with warnings.catch_warnings():
        # Tracing fixes diffusers' checks of shapes, which are fixed here anyway.
        warnings.simplefilter("ignore", TracerWarning)
        # OpenVINO's own way into a network, which torch would rather have left.
        warnings.simplefilter("ignore", DeprecationWarning)
        model = openvino.convert_model(
            _Predicted(unet), example_input=(x_t, work.timesteps()[0])
        )
    image, timestep = model.inputs
    model.reshape({image: list(x_t.shape), timestep: []})
    # Its default: weights in half precision, which the plugin turns into bfloat16.
    openvino.save_model(model, out, compress_to_fp16=True)
    return out


class _Predicted(nn.Module):
    """A UNet2DModel that returns the tensor alone."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        eps: Tensor = self.unet(x_t, t, return_dict=False)[0]
        return eps


def build_openvino(work: Workload) -> Engine:
    """Return the converted model, ready to run.

    Raises:
        EngineUnavailable: not converted, not on this device, or not installed.
    """
    openvino = import_openvino(work.device)
    if work.intermediate is None:
        raise EngineUnavailable("The model was not converted for OpenVINO.")
    hints = {
        "INFERENCE_PRECISION_HINT": "bf16",
        "INFERENCE_NUM_THREADS": work.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(work.intermediate, "CPU", hints)
    request = compiled.create_infer_request()

    def forward(x_t: Tensor, t: Tensor) -> Tensor:
        given = [x_t.numpy(), t.numpy()]
        found = request.infer(given, share_inputs=True, share_outputs=True)
        return torch.from_numpy(found[0])

    image = compiled.inputs[0].shape
    shape = (int(image[1]), int(image[2]), int(image[3]))
    size = work.intermediate.with_suffix(".bin").stat().st_size
    return Engine(
        OPENVINO, 16, 16, forward, torch.float32, shape, size, _precisions(compiled)
    )


def _precisions(compiled: Any) -> str:  # noqa: ANN401  (OpenVINO ships no types)
    """Say in what the matrix products really run: a hint is only a hint."""
    kinds = {"Convolution", "FullyConnected", "MatMul"}
    infos = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    found = Counter(
        info["runtimePrecision"].value
        for info in infos
        if info["layerType"].value in kinds
    )
    return "products in " + ", ".join(f"{k} ({n})" for k, n in found.most_common())


def import_openvino(device: torch.device) -> Any:  # noqa: ANN401
    """Return the module `openvino`, told to report to nobody.

    Raises:
        EngineUnavailable: it is not installed, or the device is not a CPU.
    """
    if device.type != "cpu":
        raise EngineUnavailable("OpenVINO is compared on the CPU only.")
    # Without its telemetry package OpenVINO sends nothing to anyone.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        module: Any = importlib.import_module("openvino")
    except ModuleNotFoundError as error:
        raise EngineUnavailable(f"OpenVINO is not installed: {INSTALL}") from error
    return module

"""Integer execution that begins with a model's first call, on the device it is on then.

diffusers loads a model first and moves it afterwards, ``pipeline.to("cuda")``; packed
weights are made for one device and stay there.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.errors import ModelUnsupported
from tcaq_core.runtime.integer import Execution, compile_integer

Kind = Literal["integer", "simulated"]


class LateExecution:
    """How a loaded denoiser executes: decided once, when it has to be known."""

    def __init__(self, denoiser: QuantizedDenoiser, kind: Kind) -> None:
        self._denoiser = denoiser
        self._kind = kind
        self._found: Execution | None = None
        self._forward = denoiser.unet.forward
        # It stays there: who wraps it, as accelerate does, wraps every call.
        denoiser.unet.forward = self._run

    def begin(self) -> Execution:
        """Execute on the device that the model is on now; what was begun goes on."""
        if self._found is None:
            unet = self._denoiser.unet
            outermost, unet.forward = unet.forward, self._forward
            try:
                self._found = self._prepare()
                self._forward = unet.forward
            finally:
                unet.forward = outermost
        return self._found

    def _prepare(self) -> Execution:
        if self._kind == "simulated":
            return _simulated(self._denoiser)
        found = compile_integer(self._denoiser)
        if found.kind == "integer":
            _stay(self._denoiser, self._denoiser.unet.device)
        return found

    def _run(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        self.begin()
        return self._forward(*args, **kwargs)


def _stay(denoiser: QuantizedDenoiser, device: torch.device) -> None:
    forward = denoiser.unet.forward

    def on_device(
        sample: Tensor,
        timestep: Tensor | float,
        *args: Any,  # noqa: ANN401  (diffusers' signature)
        **kwargs: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        if sample.device != device:
            raise ModelUnsupported(
                f"This model was prepared for {device} and is now on {sample.device}.",
                hint="Move a pipeline before its first use, or load it again.",
            )
        return forward(sample, timestep, *args, **kwargs)

    denoiser.unet.forward = on_device


def _simulated(denoiser: QuantizedDenoiser) -> Execution:
    names = [name for name, _ in denoiser.quant_layers()]
    return Execution(
        kind="simulated",
        kernels="torch-float32",
        integer_layers=0,
        simulated_layers=dict.fromkeys(names, "simulated execution was asked for"),
    )

"""Which kernels a denoiser runs on: the fastest that are exact where it is."""

import torch

from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.layers import QuantLayer
from tcaq_core.runtime.cpu import OnednnKernels, is_exact
from tcaq_core.runtime.cuda_device import why_not_int8
from tcaq_core.runtime.kernels import Kernels
from tcaq_core.runtime.native import NativeMissing, load_native


class NoKernels(RuntimeError):
    """No integer kernels are exact on this device; the text says why."""


def fastest_kernels(denoiser: QuantizedDenoiser) -> tuple[Kernels, str | None]:
    """Return kernels for a denoiser, and why they are not the fastest, if so.

    Raises:
        NoKernels: nothing but simulated execution is right on its device.
    """
    device = denoiser.unet.device
    if device.type == "cpu":
        return _cpu_kernels(denoiser)
    if device.type == "cuda":
        return _cuda_kernels(device), None
    raise NoKernels(f"there are no integer kernels for {device.type}")


def _cpu_kernels(denoiser: QuantizedDenoiser) -> tuple[Kernels, str | None]:
    layers = [layer for _, layer in denoiser.quant_layers()]
    top = max(2 ** min(layer.bits.activation_bits, 8) - 1 for layer in layers)
    if not is_exact(top=top, peak=max(_peak(layer) for layer in layers)):
        raise NoKernels(
            "this processor has no exact 8-bit multiply-add (VNNI or AMX) "
            "for these bit widths"
        )
    try:
        return OnednnKernels(load_native()), None
    except NativeMissing as error:
        return OnednnKernels(None), str(error)


def _cuda_kernels(device: torch.device) -> Kernels:
    reason = why_not_int8(device)
    if reason is not None:
        raise NoKernels(reason)
    from tcaq_core.runtime.cuda import TritonKernels  # noqa: PLC0415  (needs Triton)

    return TritonKernels()


def _peak(layer: QuantLayer) -> int:
    if layer.weight_codes is None:
        return 0
    integers = layer.codes().float() - layer.weight_params.zero_point
    return int(integers.abs().max())

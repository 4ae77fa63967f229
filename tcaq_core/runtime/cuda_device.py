"""Whether a GPU can run the Triton kernels; asks without importing Triton."""

from importlib.util import find_spec

import torch

# Turing multiplies int8 too, but Triton compiles for Ampere and later only.
OLDEST = (8, 0)


def int8_supported(device: torch.device) -> bool:
    """Return whether `TritonKernels` run on a device."""
    return why_not_int8(device) is None


def why_not_int8(device: torch.device) -> str | None:
    """Return why `TritonKernels` do not run on a device; None if they do."""
    if device.type != "cuda":
        return f"the Triton kernels need a CUDA device, not {device.type}"
    if not torch.cuda.is_available():
        return "no CUDA device is available to this installation of torch"
    if torch.version.hip is not None:
        return "the Triton kernels are for NVIDIA GPUs"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        name = torch.cuda.get_device_name(device)
        return (
            f"{name} has compute capability {capability[0]}.{capability[1]}; the "
            f"Triton kernels need {OLDEST[0]}.{OLDEST[1]} or later"
        )
    if find_spec("triton") is None:
        return "Triton is not installed: pip install 'tcaq[cuda]'"
    return None

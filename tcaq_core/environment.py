"""What produced a result: versions, processor, threads."""

import platform
from importlib.metadata import version

import torch


def make_deterministic() -> None:
    """Have this process's kernels give the same bytes for the same inputs.

    TF32 would make float32, the reference, a 10-bit format; cuDNN's autotuning picks
    kernels by their time, which differs from run to run.
    """
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def describe_environment(device: torch.device) -> dict[str, str | int | None]:
    """Return what has to be equal for a job to give the same bytes again."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": version("diffusers"),
        "tcaq": version("tcaq"),
        "processor": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_features": _vector_instructions(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "gpu": gpu,
    }


def _vector_instructions() -> str:
    """Return the extensions by which oneDNN chooses its kernels, and so their bits."""
    found = torch.cpu.get_capabilities()
    return " ".join(
        sorted(
            name
            for name, is_there in found.items()
            if is_there is True and name.startswith(("avx", "amx", "fma"))
        )
    )

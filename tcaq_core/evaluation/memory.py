"""The memory that a computation holds at its peak, beyond what was there before it."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from torch.profiler import ProfilerActivity, profile

METHOD_CPU: Final = (
    "torch's CPU allocations and frees during one evaluation, summed up as they come; "
    "weights and the scratch memory of libraries are not in it"
)
METHOD_CUDA: Final = (
    "torch.cuda.max_memory_allocated during one evaluation, less what was allocated "
    "before it"
)

KINETO_SILENT: Final = "6"


def peak_bytes(compute: Callable[[], object], device: torch.device) -> int:
    """Return the most bytes that one call holds at once on its device.

    Outputs are in it; what was allocated before the call is not. The process's
    resident memory would say less: the allocator gives freed pages to the next call.
    """
    if device.type == "cuda":
        return _peak_on_cuda(compute, device)
    return _peak_on_cpu(compute)


def _peak_on_cuda(compute: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    compute()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _peak_on_cpu(compute: Callable[[], object]) -> int:
    # Without this, the profiler writes that it starts and stops to standard error.
    os.environ.setdefault("KINETO_LOG_LEVEL", KINETO_SILENT)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        compute()
    with tempfile.TemporaryDirectory(prefix="profile-") as folder:
        trace = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = [event for event in events if event.get("name") == "[memory]"]
    held = peak = 0
    for event in sorted(changes, key=lambda event: float(event["ts"])):
        held += int(event["args"]["Bytes"])
        peak = max(peak, held)
    return peak

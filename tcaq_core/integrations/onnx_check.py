"""Does an ONNX file compute what the denoiser computes? Read, run and compared.

The two round alike except where a number lies on the border between two codes:
QuantizeLinear divides by the scale where we multiply by its reciprocal, and sums are
added in another order. One code that flips shifts what follows it, and more codes flip
there: in the end the difference is a share of the quantization's own error, as large
as after the slightest change of the input. Without a flip it is float32's. So the
bound is what the denoiser itself makes of a slight change.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx
import onnxruntime
import torch
from jaxtyping import Float
from onnxruntime.capi import onnxruntime_pybind11_state as status
from torch import Tensor

from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.errors import ExportFailed
from tcaq_core.temporal import cached_steps

NUDGE: Final = 1e-3
"""Standard deviation of the slight change; an input's own is 1."""
BOUND: Final = 1.5
"""Largest error, in multiples of what the nudge does to the denoiser."""
PROBE_SEED: Final = 0
PROBE_TIMESTEPS: Final = 4
PROBE_BATCH: Final = 2
EXACT_INPUTS: Final = ("session.qdq_matmulnbits_accuracy_level", "1")
"""onnxruntime's own choice rounds what was left in float32 (A16) to 8 bits."""
HINT: Final = "Report it with the recipe; the checkpoint itself is not affected."
# Both derive each of their errors from Exception.
NOT_RUNNABLE: Final = (
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
    status.Fail,
    status.InvalidArgument,
    status.InvalidGraph,
    status.InvalidProtobuf,
    status.NotImplemented,
    status.RuntimeException,
)


@dataclass(frozen=True)
class Agreement:
    """How far one execution of the file is from the simulated denoiser."""

    max_abs_diff: float
    relative_error: float
    """Norm of the difference over the norm of the prediction, all samples together."""
    median_error: float
    """The same of the median sample: float32's rounding where few codes flip."""


@dataclass(frozen=True)
class Checked:
    """The file in onnxruntime on a CPU: operator by operator, and with its fusions."""

    plain: Agreement
    optimized: Agreement
    sensitivity: float
    """Relative error of the denoiser against itself, its input nudged."""


def check_onnx(denoiser: QuantizedDenoiser, path: Path) -> Checked:
    """Read a file back, run it on a seeded probe and compare with the denoiser.

    Raises:
        ExportFailed: not a valid ONNX file, one that onnxruntime does not run, or one
            whose predictions differ by more than the bound.
    """
    levels = onnxruntime.GraphOptimizationLevel
    probes = _probe(denoiser)
    try:
        onnx.checker.check_model(path, full_check=True)
        plain = _compare(probes, _run(probes, path, levels.ORT_DISABLE_ALL))
        optimized = _compare(probes, _run(probes, path, levels.ORT_ENABLE_ALL))
    except NOT_RUNNABLE as error:
        raise ExportFailed(
            f"The ONNX file cannot be read or run: {error}", hint=HINT
        ) from error
    nudged = _compare(probes, [probe.nudged for probe in probes])
    checked = Checked(plain, optimized, nudged.relative_error)
    allowed = BOUND * checked.sensitivity
    for found in (plain, optimized):
        # Not `error > allowed`: NaN has to fail as well.
        if not found.relative_error <= allowed:
            raise ExportFailed(
                "The ONNX file predicts something else than the denoiser: relative "
                f"error {found.relative_error:.2g}, allowed are {allowed:.2g}.",
                hint=HINT,
            )
    return checked


def image_shape(denoiser: QuantizedDenoiser) -> tuple[int, int, int]:
    """Return channels, height and width of what is denoised."""
    config = denoiser.unet.config
    size = config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return int(config.in_channels), int(height), int(width)


@dataclass(frozen=True)
class _Probe:
    t: int
    x_t: Float[Tensor, "N C H W"]
    eps: Float[Tensor, "N C H W"]
    nudged: Float[Tensor, "N C H W"]
    """What the denoiser predicts for a slightly changed x_t."""


@torch.no_grad()
def _probe(denoiser: QuantizedDenoiser) -> list[_Probe]:
    generator = torch.Generator().manual_seed(PROBE_SEED)
    device = denoiser.unet.device
    probes: list[_Probe] = []
    for t in _probed_timesteps(denoiser):
        shape = (PROBE_BATCH, *image_shape(denoiser))
        x_t, change = torch.randn((2, *shape), generator=generator)
        eps, nudged = (
            denoiser(x.to(device), torch.full((PROBE_BATCH,), t, device=device)).cpu()
            for x in (x_t, x_t + NUDGE * change)
        )
        probes.append(_Probe(t, x_t, eps, nudged))
    return probes


def _run(
    probes: list[_Probe], path: Path, level: onnxruntime.GraphOptimizationLevel
) -> list[Float[Tensor, "N C H W"]]:
    session = _session(path, level)
    feeds = (
        {"sample": probe.x_t.numpy(), "timestep": torch.tensor(probe.t).numpy()}
        for probe in probes
    )
    return [torch.from_numpy(session.run(["eps"], feed)[0]) for feed in feeds]


def _session(
    path: Path, level: onnxruntime.GraphOptimizationLevel
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors; they are raised anyway
    options.add_session_config_entry(*EXACT_INPUTS)
    return onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )


def _probed_timesteps(denoiser: QuantizedDenoiser) -> tuple[int, ...]:
    steps = cached_steps(denoiser) or denoiser.cursor.steps
    visited = steps.timesteps if steps else range(denoiser.num_timesteps)[::-1]
    last, intervals = len(visited) - 1, PROBE_TIMESTEPS - 1
    return tuple(visited[last * i // intervals] for i in range(PROBE_TIMESTEPS))


def _compare(probes: list[_Probe], found: list[Float[Tensor, "N C H W"]]) -> Agreement:
    expected = torch.cat([probe.eps for probe in probes]).flatten(1)
    difference = torch.cat(found).flatten(1) - expected
    by_sample = difference.norm(dim=1) / expected.norm(dim=1)
    return Agreement(
        max_abs_diff=float(difference.abs().max()),
        relative_error=float(difference.norm() / expected.norm()),
        median_error=float(by_sample.median()),
    )

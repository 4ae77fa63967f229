"""ONNX export: a quantized denoiser as a QDQ graph, run and compared before it counts.

Weights are integer initializers behind DequantizeLinear, one scale an output channel;
activations pass QuantizeLinear and DequantizeLinear, one grid a tensor. The inputs are
``sample`` float32 (N, C, H, W), N free, and ``timestep`` int64 (), one for the batch;
the output is ``eps``. docs/exports.md says how to run it, and where.
"""

import warnings
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import onnx
import torch

from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.errors import ExportFailed
from tcaq_core.integrations.onnx_check import Checked, check_onnx, image_shape
from tcaq_core.integrations.onnx_file import WeightType, finish
from tcaq_core.integrations.onnx_graph import DenoiserGraph, traceable

# The first with 4-bit types.
OPSET: Final = 21
# Protocol buffers end at 2 GiB; the rest is for the graph itself.
MAX_TENSOR_BYTES: Final = 2**31 - 2**26


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how well onnxruntime reproduces the denoiser with it."""

    size_bytes: int
    opset: int
    weights: WeightType
    checked: Checked

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON data."""
        return asdict(self)


def export_onnx(
    denoiser: QuantizedDenoiser, path: Path, *, weights: WeightType = "uint4"
) -> ExportReport:
    """Write a quantized denoiser as an ONNX file, which appears checked or not at all.

    The denoiser is left as it was. An existing file is replaced.

    Raises:
        ModelUnsupported: a pass left something that no ONNX graph expresses.
        ExportFailed: too large for one file, not expressible by the exporter, or the
            file does not reproduce the denoiser; see `check_onnx`.
    """
    with traceable(denoiser) as graph:
        _check_size(graph)
        model = _trace(graph, image_shape(denoiser), denoiser.unet.device)
    finish(model, weights=weights, metadata=_metadata(denoiser))
    with TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as scratch:
        part = Path(scratch) / path.name
        onnx.save(model, part)
        checked = check_onnx(denoiser, part)
        size_bytes = part.stat().st_size
        part.replace(path)
    return ExportReport(size_bytes, OPSET, weights, checked)


@torch.no_grad()
def _trace(
    graph: DenoiserGraph, shape: tuple[int, int, int], device: torch.device
) -> onnx.ModelProto:
    # Two samples: torch takes a batch of one for a constant.
    sample = torch.zeros((2, *shape), device=device)
    timestep = torch.tensor(0, device=device)
    with warnings.catch_warnings():
        # torch.export's own use of a name that torch deprecates.
        warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`")
        try:
            program = torch.onnx.export(
                graph,
                (sample, timestep),
                dynamo=True,
                opset_version=OPSET,
                input_names=["sample", "timestep"],
                output_names=["eps"],
                dynamic_shapes={
                    "sample": {0: torch.export.Dim("batch")},
                    "timestep": None,
                },
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ExportFailed(
                f"torch cannot express this denoiser in ONNX: {error}",
                hint="Leave the export out; the checkpoint itself is not affected.",
            ) from error
    assert program is not None  # noqa: S101  (what dynamo=True returns)
    return program.model_proto


def _check_size(graph: DenoiserGraph) -> None:
    tensors = [*graph.parameters(), *graph.buffers()]
    size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if size_bytes > MAX_TENSOR_BYTES:
        raise ExportFailed(
            f"The tensors of this denoiser take {size_bytes / 2**30:.1f} GiB; one ONNX "
            "file holds 2.",
            hint="Quantize more of its layers, or leave the export out.",
        )


def _metadata(denoiser: QuantizedDenoiser) -> dict[str, str]:
    steps = denoiser.cursor.steps
    calibrated = () if steps is None else steps.timesteps
    return {
        "tcaq.version": version("tcaq"),
        "tcaq.num_timesteps": str(denoiser.num_timesteps),
        "tcaq.calibrated_timesteps": ",".join(map(str, calibrated)),
    }

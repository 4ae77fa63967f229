"""Closed-form second-order rounding, layer by layer (OPTQ, 2210.17323).

Layers are taken in the order of execution. Each sees the input that its already
rounded predecessors produce, on its grid, and should answer what full precision
answers on full-precision inputs. Biases, which stay float32, absorb the mean error.

Invariant: no layer answers worse than with the rounding it had, on its samples.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tcaq_core.calibration import (
    BlockReplay,
    CalibrationSet,
    full_precision_outputs,
)
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.errors import CalibrationFailed
from tcaq_core.functional import AffineParams
from tcaq_core.layer_io import BlockSampler
from tcaq_core.layers import QuantLayer
from tcaq_core.recipe import SecondOrder
from tcaq_core.second_order import moments, refit, round_columns
from tcaq_core.workspace import Workspace


@dataclass(frozen=True)
class LayerReport:
    """Mean squared error of one layer's answer, on its samples."""

    layer: str
    error_before: float
    error_after: float


def apply(
    denoiser: QuantizedDenoiser,
    data: CalibrationSet,
    config: SecondOrder,
    *,
    generator: torch.Generator,
    progress: Callable[[int, int], None],
    workspace: Workspace | None = None,
) -> list[dict[str, object]]:
    """Round every layer; return the error of each before and after.

    Raises:
        CalibrationFailed: a layer's input has no usable covariance.
        OutOfMemory: the workspace has no room for one block.
    """
    inputs = data.thin(config.num_inputs)
    workspace = workspace or Workspace()
    targets = full_precision_outputs(denoiser, inputs, workspace)
    exact = BlockReplay(denoiser, inputs, workspace)
    quantized = BlockReplay(denoiser, inputs, workspace)
    names = {id(layer): name for name, layer in denoiser.quant_layers()}
    report: list[dict[str, object]] = []
    for done, (block, target) in enumerate(targets.items()):
        progress(done, len(targets))
        given = quantized.inputs_of(block)
        with denoiser.full_precision():
            wanted = exact.inputs_of(block)
        exact.finished[block] = target
        module = denoiser.blocks()[block]
        sampler = BlockSampler(denoiser, module, inputs, generator)
        for key, y in sampler.answers(wanted).items():
            layer = module.get_submodule(key)
            assert isinstance(layer, QuantLayer)  # noqa: S101  (they are its keys)
            name = names[id(layer)]
            x_hat = sampler.inputs(key, given)
            report.append(asdict(round_layer(name, layer, x_hat, y, config)))
        quantized.finish(block, given)
    return report


@torch.no_grad()
def round_layer(
    name: str,
    layer: QuantLayer,
    x_hat: Float[Tensor, "M I"],
    y: Float[Tensor, "M D"],
    config: SecondOrder,
) -> LayerReport:
    """Round one layer's weight to answer y given x_hat; commit if it helped."""
    params = _flat(layer)
    weight = layer.full_weight().flatten(1)
    bias = layer.bias if layer.bias is not None else y.new_zeros(y.shape[1])
    found = moments(x_hat, y)
    try:
        target = refit(weight, found, damping=config.damping)
        rounded = round_columns(
            target if config.compensate else weight,
            params,
            found.hessian,
            damping=config.damping,
            num_bits=layer.bits.weight_bits,
        )
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise CalibrationFailed(
            f"The inputs of {name} have no usable covariance.",
            hint="Use more calibration samples, or raise second_order.damping.",
        ) from error
    before = _error(x_hat, y, layer.codes().flatten(1), params, bias)
    new_bias = bias
    if layer.bias is not None:
        hat = (rounded.codes - params.zero_point) * params.scale
        new_bias = found.output_mean - hat @ found.input_mean
    after = _error(x_hat, y, rounded.codes, params, new_bias)
    if after <= before:
        shape = layer.shape
        layer.weight_target = rounded.target.view(shape)
        layer.bias_hat = None if layer.bias is None else new_bias
        layer.commit(rounded.codes.view(shape))
    return LayerReport(name, before, min(before, after))


def _flat(layer: QuantLayer) -> AffineParams:
    def over_columns(table: Tensor) -> Tensor:
        return table.expand(layer.shape).flatten(1)

    params = layer.weight_params
    return AffineParams(over_columns(params.scale), over_columns(params.zero_point))


def _error(
    x_hat: Float[Tensor, "M I"],
    y: Float[Tensor, "M D"],
    codes: Tensor,
    params: AffineParams,
    bias: Float[Tensor, "D"],
) -> float:
    weight_hat = (codes - params.zero_point) * params.scale
    return float((x_hat @ weight_hat.T + bias - y).square().double().mean())

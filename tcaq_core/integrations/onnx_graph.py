"""A quantized denoiser as one graph that torch's ONNX exporter can trace."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import UNet2DModel
from jaxtyping import Float, Int
from torch import Tensor, nn

from tcaq_core.correction import correction_of
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.difference import differences_in
from tcaq_core.errors import ModelUnsupported
from tcaq_core.integrations.onnx_layers import OnnxLayer
from tcaq_core.integrations.onnx_modules import (
    Moment,
    OnnxCorrection,
    OnnxFeature,
    OnnxGrid,
    OnnxPassThrough,
    OnnxSoftmaxGrid,
    gather,
)
from tcaq_core.layers import QuantLayer
from tcaq_core.quantizers import SoftmaxQuantizer, UniformQuantizer
from tcaq_core.temporal import CachedFeature, KnownTimesteps, cached_steps


class DenoiserGraph(nn.Module):
    """eps(sample, timestep), all of it: one timestep for the whole batch."""

    step_of: Int[Tensor, "T"] | None
    cached_row_of: Int[Tensor, "T"] | None
    nan_if_unknown: Float[Tensor, "T"] | None
    """Zero for cached timesteps, NaN for all others."""

    def __init__(self, denoiser: QuantizedDenoiser, moment: Moment) -> None:
        super().__init__()
        self.unet = denoiser.unet
        self.moment = moment
        device = denoiser.unet.device
        every = torch.arange(denoiser.num_timesteps, device=device)
        steps, cached = denoiser.cursor.steps, cached_steps(denoiser)
        self.register_buffer("step_of", None if steps is None else steps.index(every))
        row_of = unknown = None
        if cached is not None:
            row_of = cached.index(every)
            known = torch.isin(every, torch.tensor(cached.timesteps, device=device))
            unknown = torch.zeros(len(every), device=device)
            unknown = unknown.where(known, torch.nan)
        self.register_buffer("cached_row_of", row_of)
        self.register_buffer("nan_if_unknown", unknown)
        correction = correction_of(denoiser.unet)
        self.correction = (
            OnnxCorrection(correction, moment)
            if correction is not None and correction.is_active
            else nn.Identity()
        )

    def forward(
        self, sample: Float[Tensor, "N C H W"], timestep: Int[Tensor, ""]
    ) -> Float[Tensor, "N C H W"]:
        """Return the predicted noise."""
        moment = self.moment
        moment.t = timestep.clamp(0, moment.num_timesteps - 1)
        if self.step_of is not None:
            moment.step = gather(self.step_of, moment.t)
        if self.cached_row_of is not None:
            moment.cached = gather(self.cached_row_of, moment.t)
        # The class's own forward: the instance's sets the cursor that tables no
        # longer read.
        eps = UNet2DModel.forward(self.unet, sample, timestep, return_dict=False)[0]
        corrected: Tensor = self.correction(eps)
        if self.nan_if_unknown is None:
            return corrected
        # A graph cannot raise. Not at the feature: quantizing makes a number of NaN.
        return corrected + gather(self.nan_if_unknown, moment.t)


@contextmanager
def traceable(denoiser: QuantizedDenoiser) -> Iterator[DenoiserGraph]:
    """Give a denoiser's modules their ONNX form for the duration of a block.

    Raises:
        ModelUnsupported: it keeps something from step to step, which a graph cannot,
            or nothing of it is quantized.
    """
    check_stateless(denoiser)
    unet, moment = denoiser.unet, Moment(denoiser.num_timesteps)
    graph = DenoiserGraph(denoiser, moment)
    found, was_training = _replaceable(unet), unet.training
    try:
        graph.eval()
        for name, module in found.items():
            unet.set_submodule(name, _onnx_form(module, moment))
        yield graph
    finally:
        for name, module in found.items():
            unet.set_submodule(name, module)
        unet.train(was_training)


def check_stateless(denoiser: QuantizedDenoiser) -> None:
    """Refuse what one evaluation of a graph cannot express.

    Raises:
        ModelUnsupported: see `traceable`.
    """
    followed = differences_in(denoiser.unet)
    if followed:
        raise ModelUnsupported(
            f"{len(followed)} layers quantize the difference to the sampler's last "
            f"step (the pass 'modulate'), {next(iter(followed))} first; an ONNX graph "
            "keeps nothing from one step to the next.",
            hint="Leave the pass modulate out of the recipe, or the export.",
        )
    if not any(layer.is_active for _, layer in denoiser.quant_layers()):
        raise ModelUnsupported(
            "No layer of this denoiser is quantized yet: there is nothing to export.",
            hint="Export after quantizing, outside of full_precision().",
        )


def _replaceable(unet: nn.Module) -> dict[str, nn.Module]:
    """Return what has an ONNX form, by name; what is inside another is not listed."""
    found: dict[str, nn.Module] = {}
    for name, module in unet.named_modules():
        inside = any(name.startswith(f"{other}.") for other in found)
        if not inside and _has_onnx_form(module):
            found[name] = module
    return found


def _has_onnx_form(module: nn.Module) -> bool:
    if isinstance(module, QuantLayer | UniformQuantizer | SoftmaxQuantizer):
        return module.is_active
    return isinstance(module, CachedFeature | KnownTimesteps)


def _onnx_form(module: nn.Module, moment: Moment) -> nn.Module:
    match module:
        case QuantLayer():
            return OnnxLayer(module, moment)
        case UniformQuantizer():
            return OnnxGrid(module, 0, moment)
        case SoftmaxQuantizer():
            return OnnxSoftmaxGrid(module, moment)
        case CachedFeature():
            return OnnxFeature(module, moment)
        case _:
            return OnnxPassThrough()

"""The temporal information block: what a denoiser computes from the timestep alone.

TFMQ-DM (2311.16503): h(t) is the time embedding, g_i the projection of it inside
residual block i. The g_i(h(t)) are the temporal features; a sampler shows a finite
set of them, so they can be computed once and kept (2407.19547, cache-based
maintenance).
"""

from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D
from jaxtyping import Float, Int
from torch import Tensor, nn

from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.errors import CalibrationFailed, ModelUnsupported
from tcaq_core.layers import QuantLayer
from tcaq_core.quantizers import NotCalibrated
from tcaq_core.timesteps import SamplerSteps, TimestepCursor

EMBEDDING = "time_embedding"
PROJECTION = "time_emb_proj"


class CachedFeature(nn.Module):
    """A projection g_i(h(t)) replaced by its values at the cached timesteps."""

    table: Float[Tensor, "S D"] | None

    def __init__(
        self, num_features: int, steps: SamplerSteps, *, cursor: TimestepCursor
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.steps = steps
        self.cursor = cursor
        self.register_buffer("table", None)

    def load(self, table: Float[Tensor, "S D"]) -> None:
        """Take the features, one row for each cached timestep, as float16.

        Raises:
            ValueError: a table of another shape.
        """
        if table.shape != (len(self.steps), self.num_features):
            raise ValueError(f"cached features {tuple(table.shape)}")
        self.table = table.to(torch.float16)

    def values(self) -> Float[Tensor, "S D"]:
        """Return the float16 table.

        Raises:
            NotCalibrated: nothing was loaded yet.
        """
        if self.table is None:
            raise NotCalibrated("a temporal feature has no cached values yet")
        return self.table

    def forward(self, x: Float[Tensor, "N *S"]) -> Float[Tensor, "N D"]:
        """Return the feature of every sample's timestep; x only says the type."""
        table = self.values()
        return table[self.steps.index(self.cursor.t)].to(x.dtype)


class KnownTimesteps(nn.Module):
    """The time embedding's place once the features are cached: a check, no work."""

    def __init__(self, steps: SamplerSteps, *, cursor: TimestepCursor) -> None:
        super().__init__()
        self.steps = steps
        self.cursor = cursor

    def forward(self, sample: Tensor, condition: None = None) -> Tensor:
        """Return the sample as it is: the cached features do not read it.

        Raises:
            ModelUnsupported: a timestep whose features are not cached.
        """
        del condition
        t = self.cursor.t
        known = torch.tensor(self.steps.timesteps, device=t.device)
        unknown = t[~torch.isin(t, known)]
        if unknown.numel():
            raise ModelUnsupported(
                f"This checkpoint holds temporal features of {len(self.steps)} "
                f"timesteps; {int(unknown[0])} is not one of them.",
                hint=f"Sample with num_steps={len(self.steps)}, as it was calibrated, "
                'or quantize with temporal.maintenance="reconstruct".',
            )
        return sample


def temporal_layers(denoiser: QuantizedDenoiser) -> dict[str, QuantLayer]:
    """Return the quantized layers of the temporal information block, by name."""
    return {
        name: layer
        for name, layer in denoiser.quant_layers()
        if name.startswith(f"{EMBEDDING}.") or name.split(".")[-1] == PROJECTION
    }


def projecting_blocks(denoiser: QuantizedDenoiser) -> dict[str, Any]:
    """Return the residual blocks that project the time embedding, by name.

    Raises:
        ModelUnsupported: a block reads the time embedding in another way.
    """
    shift = denoiser.unet.config.resnet_time_scale_shift
    if shift not in {"default", "scale_shift"}:
        raise ModelUnsupported(
            f"Residual blocks with resnet_time_scale_shift={shift!r} have no "
            "projection of the time embedding that could be kept.",
            hint="Leave the temporal pass out of the recipe.",
        )
    return {
        name: block
        for name, block in denoiser.unet.named_modules()
        if isinstance(block, ResnetBlock2D) and block.time_emb_proj is not None
    }


def temporal_features(
    denoiser: QuantizedDenoiser, t: Int[Tensor, "S"]
) -> dict[str, Float[Tensor, "S D"]]:
    """Return every g_i(h(t)), as the denoiser computes it now, by projection."""
    unet = denoiser.unet
    with denoiser.cursor.at(t):
        h: Tensor = unet.time_embedding(unet.time_proj(t).to(unet.dtype))
        return {
            f"{name}.{PROJECTION}": block.time_emb_proj(
                h if block.skip_time_act else block.nonlinearity(h)
            )
            for name, block in projecting_blocks(denoiser).items()
        }


def cached_steps(denoiser: QuantizedDenoiser) -> SamplerSteps | None:
    """Return the timesteps whose features are cached; None: nothing is cached."""
    place = denoiser.unet.time_embedding
    return place.steps if isinstance(place, KnownTimesteps) else None


def cached_features(denoiser: QuantizedDenoiser) -> dict[str, CachedFeature]:
    """Return the cached features, by the projection that each replaces."""
    return {
        name: module
        for name, module in denoiser.unet.named_modules()
        if isinstance(module, CachedFeature)
    }


def open_cache(denoiser: QuantizedDenoiser, steps: SamplerSteps) -> None:
    """Replace the temporal information block by tables, still to be loaded."""
    for name, block in projecting_blocks(denoiser).items():
        projection = block.time_emb_proj
        is_quantized = isinstance(projection, QuantLayer)
        shape = projection.shape if is_quantized else projection.weight.shape
        feature = CachedFeature(shape[0], steps, cursor=denoiser.cursor)
        denoiser.unet.set_submodule(f"{name}.{PROJECTION}", feature)
    known = KnownTimesteps(steps, cursor=denoiser.cursor)
    denoiser.unet.set_submodule(EMBEDDING, known)


@torch.no_grad()
def cache_features(denoiser: QuantizedDenoiser, steps: SamplerSteps) -> int:
    """Keep the full-precision features of these timesteps and drop their layers.

    Returns how many numbers are kept. From here on full precision reads them too.

    Raises:
        CalibrationFailed: a feature is NaN, infinite or beyond float16.
        ModelUnsupported: see `projecting_blocks`.
    """
    device = denoiser.unet.device
    with denoiser.full_precision():
        t = torch.tensor(steps.timesteps, device=device)
        exact = temporal_features(denoiser, t)
    tables = {name: feature.to(torch.float16) for name, feature in exact.items()}
    for name, table in tables.items():
        if not bool(torch.isfinite(table).all()):
            raise CalibrationFailed(
                f"The temporal feature {name} has values that float16 cannot hold.",
                hint='Use temporal.maintenance="reconstruct".',
            )
    open_cache(denoiser, steps)
    for name, feature in cached_features(denoiser).items():
        feature.load(tables[name])
    return sum(table.numel() for table in tables.values())

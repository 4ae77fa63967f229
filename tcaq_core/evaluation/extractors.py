"""Feature networks, loaded: uint8 images in, float32 features out."""

import hashlib
import io
from pathlib import Path
from pickle import UnpicklingError
from typing import Final

import torch
from jaxtyping import UInt8
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from tcaq_core.errors import EvaluationFailed, ExtractorUnavailable
from tcaq_core.evaluation import inception_weights
from tcaq_core.evaluation.architectures import is_used, structure_of
from tcaq_core.evaluation.cifar_resnet import CifarResNet
from tcaq_core.evaluation.extractor_folder import inspect_extractor, weights_file
from tcaq_core.evaluation.features import Features
from tcaq_core.evaluation.inception import IMAGE_SIZE, InceptionV3
from tcaq_core.evaluation.maps import Maps
from tcaq_core.evaluation.record import ExtractorDtype, ExtractorInfo
from tcaq_core.evaluation.resize import resize_tf1

BATCH_SIZE: Final = 64
"""Images that are in the network at once."""
CACHED_BATCH_SIZE: Final = 8
"""In the Inception on a CPU: the maps of 64 leave its caches, and take an eighth longer
(measured on one core)."""


class FeatureNetwork:
    """The `Extractor` that a file holds."""

    def __init__(
        self,
        network: InceptionV3 | CifarResNet,
        info: ExtractorInfo,
        *,
        device: torch.device,
    ) -> None:
        self._network = for_inference(network, info.dtype, device=device)
        self._mean = torch.tensor([255 * x for x in info.mean], device=device)
        self._std = torch.tensor([255 * x for x in info.std], device=device)
        self._info = info
        is_cached = isinstance(network, InceptionV3) and device.type == "cpu"
        self._batch_size = CACHED_BATCH_SIZE if is_cached else BATCH_SIZE

    @property
    def info(self) -> ExtractorInfo:
        """Which network it is, and how images are shown to it."""
        return self._info

    @torch.inference_mode()
    def __call__(self, images: UInt8[Tensor, "N H W C"]) -> Features:
        """Return the features of images; gray ones (C = 1) are shown as colour.

        The same images give the same bits. Among others, an image's features are the
        same but for rounding.

        Raises:
            EvaluationFailed: a size or number of channels that the network does not
                take, or features that are not finite.
        """
        self._require_shape(images)
        parts = [self._features(batch) for batch in images.split(self._batch_size)]
        pooled, spatial, logits = map(torch.cat, zip(*parts, strict=True))
        self._require_finite(pooled, spatial, logits)
        return Features(pooled, spatial, logits)

    def _features(
        self, images: UInt8[Tensor, "n H W C"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = images.to(self._mean.device, torch.float32).expand(-1, -1, -1, 3)
        if self._info.resize != "none":
            x = resize_tf1(x, size=IMAGE_SIZE)
        x = (x - self._mean) / self._std
        dtype = torch.bfloat16 if self._info.dtype == "bfloat16" else torch.float32
        # Channels stay last in memory: the fast layout for all that follows.
        maps: Maps = self._network(x.permute(0, 3, 1, 2).to(dtype))
        pooled, spatial, logits = (
            part.to("cpu", torch.float32)
            for part in (maps.pooled, maps.spatial, maps.logits)
        )
        return pooled, spatial, logits

    def _require_shape(self, images: UInt8[Tensor, "N H W C"]) -> None:
        _, height, width, channels = images.shape
        size = self._info.image_size
        if channels not in (1, 3) or min(height, width) < 1:
            raise EvaluationFailed(
                f"The images have {channels} channels and {width}x{height} pixels.",
                hint="Feature networks see colour (3) or gray (1) images.",
            )
        if size is not None and (height, width) != (size, size):
            raise EvaluationFailed(
                f"{self._info.name} takes images of {size}x{size} pixels; these have "
                f"{width}x{height}.",
                hint="Name an extractor of that size, or one that resizes.",
            )

    def _require_finite(self, *features: Tensor) -> None:
        # A sum is finite only if every term is; unlike a mask, it needs no memory.
        if not all(bool(part.sum(dtype=torch.float64).isfinite()) for part in features):
            raise EvaluationFailed(
                f"{self._info.name} gives features that are not finite.",
                hint="Use extractor_dtype float32; if it was, the weights are damaged.",
            )


def load_extractor(
    path: Path,
    *,
    device: torch.device,
    dtype: ExtractorDtype = "float32",
    expected: ExtractorInfo | None = None,
) -> FeatureNetwork:
    """Return the network of an extractor's folder or file, ready for images.

    `expected` is what a plan recorded: the same weights, shown images the same way, or
    the load is refused.

    Raises:
        ExtractorUnavailable: as `inspect_extractor`; or it is not what was expected.
    """
    info = inspect_extractor(path, dtype=dtype)
    if expected is not None and info != expected:
        raise ExtractorUnavailable(
            f"{info.name} (sha256 {info.weights_sha256[:12]}...) is not the extractor "
            f"that was planned with: {expected.name} "
            f"({expected.weights_sha256[:12]}...), or is shown images otherwise.",
            hint="Put the same folder on the server and on every worker.",
        )
    weights = weights_file(path)
    try:
        network = _build(_read(weights, sha256=info.weights_sha256))
    except (SafetensorError, UnpicklingError, RuntimeError, ValueError) as error:
        # What a header cannot show: a tensor missing in the middle of the Inception.
        raise ExtractorUnavailable(
            f"{weights.name} has not all the tensors of its network.",
            hint="Copy it again, or save the whole state_dict.",
        ) from error
    return FeatureNetwork(network, info, device=device)


def for_inference(
    network: InceptionV3 | CifarResNet, dtype: ExtractorDtype, *, device: torch.device
) -> nn.Module:
    """Return the network made ready, in place: folded, channels last, in its type."""
    network.eval().requires_grad_(requires_grad=False)
    network.fold()
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's annotation lacks it
    if dtype == "bfloat16":
        # Not the last layer: the logits cost nothing, and a softmax sees every bit.
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.to(torch.bfloat16)
    return network


def _read(weights: Path, *, sha256: str) -> dict[str, Tensor]:
    raw = weights.read_bytes()
    # It may have been another file a moment ago.
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise ExtractorUnavailable(
            f"{weights.name} changed while it was read.", hint="Try again."
        )
    if sha256 == inception_weights.SHA256:
        # A pickle, whose bytes are known.
        tensors: dict[str, Tensor] = torch.load(io.BytesIO(raw), weights_only=True)
    else:
        tensors = load_safetensors(raw)
    return {name: tensor.float() for name, tensor in tensors.items() if is_used(name)}


def _build(tensors: dict[str, Tensor]) -> InceptionV3 | CifarResNet:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    structure = structure_of(shapes)
    if structure is None:
        raise ValueError(f"of no network that is known: {sorted(shapes)[:4]}")
    network: InceptionV3 | CifarResNet
    # On no device: nothing is drawn that the tensors replace.
    with torch.device("meta"):
        if structure.architecture == "inception-v3":
            network = InceptionV3()
        else:
            network = CifarResNet(
                num_blocks=structure.num_blocks,
                width=structure.width,
                num_classes=structure.num_classes,
            )
    network.load_state_dict(tensors, assign=True)
    return network

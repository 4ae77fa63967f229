"""What a score says of itself, without which it is only a number; torch-free.

One record per metric (api.md, section 14). Everything that moves the value is in it.
"""

from typing import Annotated, Final, Literal

from pydantic import Field

from tcaq_core.evaluation.protocols import INCEPTION, Data, Metric, Sampling

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ExtractorDtype = Literal["float32", "bfloat16"]
_LABELS: Final = {
    "fid": "FID",
    "sfid": "sFID",
    "is": "IS",
    "kid": "KID",
    "fd": "FD",
    "sfd": "sFD",
    "kd": "KD",
    "cs": "CS",
}


class ExtractorInfo(Data):
    """Which network saw the images, and how they were shown to it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    weights_sha256: Sha256
    layer: str
    """Of the pooled features."""
    num_features: Annotated[int, Field(ge=1)]
    num_spatial: Annotated[int, Field(ge=0)]
    """Width of the spatial features (sFID); 0: the network has none."""
    num_classes: Annotated[int, Field(ge=0)]
    """Width of the logits; 0: the network has none."""
    resize: str
    """``tf1-bilinear-no-antialias`` to 299, or ``none``."""
    image_size: int | None
    """Side in pixels that an image must have where nothing is resized; None: any."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """The network sees (x / 255 - mean) / std, by channel."""
    dtype: ExtractorDtype = "float32"


class ReferenceInfo(Data):
    """What reference statistics were made of; stands in their file's header."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    n: Annotated[int, Field(ge=2)]
    image_size: tuple[int, int]
    """Height and width of the images, before any resize."""
    images_sha256: Sha256
    """Over the decoded pixels, in order: (N, H, W, 3) uint8."""
    extractor: ExtractorInfo
    has_spatial: bool
    has_features: bool
    """Whether each image's features are in the file: KID, precision and recall need
    them."""


class ReferenceUsed(Data):
    """A reference file, named by its hash."""

    stats_sha256: Sha256
    info: ReferenceInfo


class Interval(Data):
    """A 95 % confidence interval and how it was computed."""

    low: float
    high: float
    method: str


class Baseline(Data):
    """The full-precision model's score with the same seeds, and the difference."""

    subject: dict[str, str]
    """Its hashes, as `Generated.subject`."""
    manifest_sha256: Sha256
    """Over the pixels of all its images in order."""

    value: float
    ci95: tuple[float, float] | None
    delta: float
    """This score minus the baseline's."""
    delta_ci95: tuple[float, float] | None
    """Of the paired difference: narrower, the more alike the images are."""
    same_seeds: Literal[True] = True


class Generated(Data):
    """The images that were scored."""

    subject: dict[str, str]
    """What drew them: the hashes of a checkpoint, or of a model and its settings."""
    batch_size: int
    """Images drawn at once."""

    dtype: Literal["uint8"] = "uint8"
    rounding: Literal["nearest"] = "nearest"
    format: Literal["none", "png"]
    """``png``: they were kept, losslessly; ``none``: only their features were."""
    manifest_sha256: Sha256
    """Over the pixels of all images in order."""


class Seeds(Data):
    """Image i of every subject is drawn from seed base + i alone."""

    base: int
    scheme: Literal["per-image"] = "per-image"


class Implementation(Data):
    """Which program computed the score."""

    package: Literal["tcaq"] = "tcaq"
    version: str


class ProtocolUsed(Data):
    """The protocol's name, and what the request changed of it."""

    name: str
    changed: tuple[str, ...] = ()
    """Names of the fields that differ; a score is only comparable where empty."""


class ScoreRecord(Data):
    """One metric of one evaluation."""

    metric: Metric
    label: str
    """How to print it: ``FID``, or ``FD-resnet14-cifar10`` on another network."""
    value: float | None
    """None: infinite, as the PSNR of equal images."""
    ci95: tuple[float, float] | None
    ci95_method: str | None
    protocol: ProtocolUsed
    n_generated: int
    reference: ReferenceUsed | None
    """None: the full-precision model's own images are what it is compared with."""
    features: ExtractorInfo | None
    images: Generated
    sampler: Sampling
    seeds: Seeds
    execution: str
    """``integer``, ``simulated`` or ``full-precision``."""
    implementation: Implementation
    environment_digest: Sha256
    """Of the workers' versions, device and threads: equal for all of them."""
    baseline: Baseline | None
    notes: tuple[str, ...] = ()
    """What a reader must know, such as fewer images than features."""


def label_of(metric: Metric, extractor: ExtractorInfo | None) -> str:
    """Return the metric's printed name; another network's name is part of it."""
    label = _LABELS.get(metric, metric)
    if extractor is None or extractor.name == INCEPTION:
        return label
    return f"{label}-{extractor.name}"

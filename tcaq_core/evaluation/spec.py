"""What a request may ask of an evaluation, and its guards; torch-free."""

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from tcaq_core.evaluation.protocols import (
    INCEPTION,
    INCEPTION_METRICS,
    LOGIT_METRICS,
    OTHER_NETWORK,
    PAIRED_METRICS,
    PIXEL_METRICS,
    PROTOCOLS,
    Data,
    Metric,
)
from tcaq_core.evaluation.record import ExtractorDtype

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
MIN_IMAGES: Final = 2
MAX_IMAGES: Final = 1_000_000
MAX_SHARDS: Final = 20_000
"""Each is a row that workers claim, and a file."""


def _known_protocol(name: str) -> str:
    if name not in PROTOCOLS:
        raise ValueError(f"there is no protocol of that name; known: {list(PROTOCOLS)}")
    return name


ProtocolName = Annotated[
    str,
    AfterValidator(_known_protocol),
    WithJsonSchema({"type": "string", "enum": list(PROTOCOLS)}),
]


class Evaluation(Data):
    """The ``evaluation`` of a request: a protocol's name is all that is required."""

    protocol: ProtocolName = "quick"
    metrics: (
        Annotated[tuple[Metric, ...], Field(min_length=1, max_length=16)] | None
    ) = None
    """By default the protocol's, and the paired ones where a baseline is drawn."""
    extractor: Name | None = None
    """Another network than the protocol's; its name becomes part of the score's."""
    extractor_dtype: ExtractorDtype = "float32"
    """``bfloat16`` is faster and moves the score (docs/evaluation.md)."""
    reference: Name | None = None
    """Other reference statistics than the protocol's."""
    num_images: Annotated[int, Field(ge=MIN_IMAGES, le=MAX_IMAGES)] | None = None
    num_steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**62)] = 0
    """Image i is drawn from seed + i."""
    baseline: bool = True
    """Whether the full-precision model is scored with the same seeds, too."""
    paired_images: Annotated[int, Field(ge=2, le=10_000)] = 256
    """How many images, from the first, the paired metrics compare; at most all."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 50
    """Images drawn at once, by every worker alike: simulated execution rounds
    differently in another batch."""
    shard_images: Annotated[int, Field(ge=1, le=10_000)] = 250
    """Images in one claimable piece of the work."""
    keep_images: bool = False
    """Whether every image is stored: PNGs, in one tar a shard."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Evaluation":
        wanted = set(self.wanted)
        network = self.extractor or PROTOCOLS[self.protocol].extractor
        if network != INCEPTION and (misnamed := sorted(wanted & INCEPTION_METRICS)):
            better = [OTHER_NETWORK[name] for name in misnamed]
            raise ValueError(
                f"{misnamed} mean the {INCEPTION} network; on {network} ask for "
                f"{better}"
            )
        if network == INCEPTION and (
            odd := sorted(wanted & set(OTHER_NETWORK.values()))
        ):
            raise ValueError(f"{odd} are the names on another network than {INCEPTION}")
        num_images = self.num_images or PROTOCOLS[self.protocol].num_images
        if num_images > MAX_SHARDS * self.shard_images:
            raise ValueError(
                f"{num_images} images in shards of {self.shard_images} are more than "
                f"{MAX_SHARDS} shards: raise shard_images"
            )
        if not self.baseline and (paired := sorted(wanted & PAIRED_METRICS)):
            raise ValueError(f"{paired} compare with the baseline: set baseline true")
        return self

    @property
    def wanted(self) -> tuple[Metric, ...]:
        """The metrics that are computed, in order."""
        if self.metrics is not None:
            return tuple(dict.fromkeys(self.metrics))
        protocol = PROTOCOLS[self.protocol]
        own = protocol.metrics
        if self.extractor not in (None, INCEPTION):
            own = tuple(OTHER_NETWORK.get(name, name) for name in own)  # type: ignore[misc] # both are Metrics
        elif self.extractor == INCEPTION and protocol.extractor != INCEPTION:
            back = {other: name for name, other in OTHER_NETWORK.items()}
            own = tuple(back.get(name, name) for name in own)  # type: ignore[misc] # both are Metrics
        paired: tuple[Metric, ...] = ("psnr_db", "ssim", "feature_distance")
        if self.baseline:
            return tuple(dict.fromkeys((*own, *paired)))
        return tuple(name for name in own if name not in PAIRED_METRICS)

    @property
    def network(self) -> str | None:
        """Name of the extractor; None: no metric needs one."""
        if set(self.wanted) <= PIXEL_METRICS:
            return None
        return self.extractor or PROTOCOLS[self.protocol].extractor

    @property
    def compared_with(self) -> str | None:
        """Name of the reference statistics; None: no metric needs them.

        Raises:
            ValueError: a metric needs them, and neither request nor protocol names any.
        """
        if set(self.wanted) <= PAIRED_METRICS | LOGIT_METRICS:
            return None
        found = self.reference or PROTOCOLS[self.protocol].reference
        if found is None:
            raise ValueError("name the reference statistics to compare with")
        return found


class Guards(Data):
    """What a quantization must not cost, and what is done when it does."""

    max_fid_increase: Annotated[float, Field(ge=0)] | None = None
    """Over the baseline's FID; needs ``fid`` in the evaluation's metrics."""
    max_fd_increase: Annotated[float, Field(ge=0)] | None = None
    """The same for ``fd``, the Frechet distance on another network."""
    min_psnr_db: Annotated[float, Field(ge=0)] | None = None
    """Of the images against the full-precision model's of the same noise."""
    on_violation: Literal["fail", "raise_bits", "skip_layers"] = "fail"
    """``raise_bits``: the layers that the report calls worst get more bits;
    ``skip_layers``: they stay in full precision; in at most `max_rounds` rounds."""
    max_rounds: Annotated[int, Field(ge=1, le=8)] = 3

    @model_validator(mode="after")
    def _guards_something(self) -> "Guards":
        limits = (self.max_fid_increase, self.max_fd_increase, self.min_psnr_db)
        if all(limit is None for limit in limits):
            raise ValueError(
                "name a limit: max_fid_increase, max_fd_increase or min_psnr_db"
            )
        return self

    @property
    def needs(self) -> frozenset[str]:
        """The metrics without which the limits cannot be checked."""
        limits = {
            "fid": self.max_fid_increase,
            "fd": self.max_fd_increase,
            "psnr_db": self.min_psnr_db,
        }
        return frozenset(name for name, limit in limits.items() if limit is not None)

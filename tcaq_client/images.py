"""Images that the service drew, as frozen data."""

from dataclasses import dataclass, field
from typing import Self

from tcaq_client.results import JsonObject


@dataclass(frozen=True)
class Image:
    """One PNG in the service's store, named by its SHA-256."""

    sha256: str
    width: int
    height: int
    seed: int | None
    """Seed of its noise; None for a grid."""

    @classmethod
    def from_json(cls, image: JsonObject) -> Self:
        """Read one image of a sample object."""
        return cls(
            sha256=str(image["sha256"]),
            width=int(image["width"]),
            height=int(image["height"]),
            seed=image.get("seed"),
        )


@dataclass(frozen=True)
class Sample:
    """Images drawn from a checkpoint or a model."""

    id: str
    images: tuple[Image, ...]
    baseline: tuple[Image, ...] | None
    """Same noise, full precision; None without `compare_to`."""
    grid: Image
    """All images in one; with a baseline, full precision above, quantized below."""
    execution: str
    """``integer``, ``simulated`` or ``full-precision``."""
    kernels: str | None
    """What computed it, as ``onednn-int8``; None in full precision."""
    psnr_db: float | None
    """Mean over images, against the baseline; None without one."""
    seconds_per_image: float
    raw: JsonObject = field(repr=False)

    @classmethod
    def from_json(cls, sample: JsonObject) -> Self:
        """Read a succeeded sample object (POST /sample)."""
        baseline = sample.get("baseline")
        psnr = (sample.get("metrics") or {}).get("psnr_db")
        return cls(
            id=str(sample["id"]),
            images=tuple(map(Image.from_json, sample["images"])),
            baseline=None
            if baseline is None
            else tuple(map(Image.from_json, baseline)),
            grid=Image.from_json(sample["grid"]),
            execution=str(sample["execution"]),
            kernels=(sample.get("execution_details") or {}).get("kernels"),
            psnr_db=None if psnr is None else float(psnr),
            seconds_per_image=float(sample["seconds_per_image"]),
            raw=sample,
        )

"""Named evaluation protocols as data (docs/evaluation.md); torch-free.

A protocol fixes everything that moves a score: the sampler, the number of images, what
they are compared with and in which features. Two scores are comparable when they name
the same protocol and the same extractor and changed nothing.
"""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

INCEPTION: Final = "inception-v3-fid"
"""The extractor of FID: 2015-12-05 weights, TF1-style resize."""
SMALL_CLASSIFIER: Final = "resnet14-cifar10"
"""The extractor that is shipped with the project."""

Metric = Literal[
    "fid",
    "sfid",
    "is",
    "kid",
    "fd",
    "sfd",
    "kd",
    "cs",
    "precision",
    "recall",
    "psnr_db",
    "ssim",
    "feature_distance",
]
INCEPTION_METRICS: Final = frozenset({"fid", "sfid", "is", "kid"})
"""Names that mean the FID network and nothing else."""
OTHER_NETWORK: Final = {"fid": "fd", "sfid": "sfd", "is": "cs", "kid": "kd"}
"""The same mathematics on another network's features: Frechet distance, spatial
Frechet distance, classifier score, kernel distance."""
PIXEL_METRICS: Final = frozenset({"psnr_db", "ssim"})
"""Those that need no network."""
SPATIAL_METRICS: Final = frozenset({"sfid", "sfd"})
LOGIT_METRICS: Final = frozenset({"is", "cs"})
PAIRED_METRICS: Final = frozenset({"psnr_db", "ssim", "feature_distance"})
"""Against the full-precision model's images of the same noise."""


class Data(BaseModel):
    """What everything here shares: frozen, strict, finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Sampling(Data):
    """How images are drawn: DDIM (2010.02502) whatever sampler the folder names."""

    name: Literal["ddim"] = "ddim"
    num_steps: Annotated[int, Field(ge=1, le=1000)]
    schedule: Literal["quad", "uniform"] = "uniform"
    """``quad``: t_i = (i / (n - 1) * sqrt(0.8 T))^2, rounded down, repetitions dropped;
    ``uniform``: as the model's scheduler spaces them."""
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0


class Protocol(Data):
    """What a named protocol fixes."""

    name: str
    description: str
    num_images: Annotated[int, Field(ge=2)]
    image_size: int | None
    """Side in pixels that the model must draw; None: any."""
    sampling: Sampling
    guidance: float | None = None
    """Scale of classifier-free guidance; None: none."""
    conditioning: Literal["none", "classes", "prompts"] = "none"
    """``classes``: every class equally often; ``prompts``: one caption an image."""
    extractor: str = INCEPTION
    reference: str | None
    """Name of the reference statistics; None: the caller must name one."""
    metrics: tuple[Metric, ...] = ("fid", "sfid", "is", "kid")
    source: str


PROTOCOLS: Final = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="quick",
            description="2,000 images in the features of a small classifier: a first "
            "look, not comparable with published FIDs.",
            num_images=2_000,
            image_size=None,
            sampling=Sampling(num_steps=50),
            extractor=SMALL_CLASSIFIER,
            reference="cifar10-train",
            metrics=("fd", "psnr_db", "ssim", "feature_distance"),
            source="this project",
        ),
        Protocol(
            name="cifar10-50k",
            description="CIFAR-10, unconditional, against the 50,000 training images.",
            num_images=50_000,
            image_size=32,
            sampling=Sampling(num_steps=100, schedule="quad"),
            reference="cifar10-train-inception",
            source="Q-Diffusion, TFMQ-DM, TCAQ-DM",
        ),
        Protocol(
            name="lsun-bedrooms-50k",
            description="LSUN-Bedrooms 256, unconditional latent diffusion (LDM-4).",
            num_images=50_000,
            image_size=256,
            sampling=Sampling(num_steps=200, eta=1.0),
            reference="lsun-bedrooms-inception",
            metrics=("fid", "sfid"),
            source="TFMQ-DM; ADM evaluator's reference batch",
        ),
        Protocol(
            name="lsun-churches-50k",
            description="LSUN-Churches 256, unconditional latent diffusion (LDM-8).",
            num_images=50_000,
            image_size=256,
            sampling=Sampling(num_steps=400),
            reference="lsun-churches-inception",
            metrics=("fid", "sfid"),
            source="TFMQ-DM (400 steps; QuEST and Q-Diffusion print 500)",
        ),
        Protocol(
            name="imagenet256-50k",
            description="ImageNet 256, class-conditional (LDM-4), 50 images a class. "
            "FID misleads here: read sFID, IS and the paired metrics.",
            num_images=50_000,
            image_size=256,
            sampling=Sampling(num_steps=20),
            guidance=3.0,
            conditioning="classes",
            reference="imagenet256-inception",
            metrics=("fid", "sfid", "is"),
            source="TFMQ-DM, QuEST; ADM evaluator's reference batch",
        ),
        Protocol(
            name="coco-30k",
            description="Stable Diffusion v1.4 on 30,000 captions of MS-COCO.",
            num_images=30_000,
            image_size=512,
            sampling=Sampling(num_steps=50),
            guidance=7.5,
            conditioning="prompts",
            reference="coco-inception",
            metrics=("fid", "sfid"),
            source="TFMQ-DM (which samples with PLMS)",
        ),
    )
}

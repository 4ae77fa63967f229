"""What is asked for: the body of POST /jobs and the parameters of GET /jobs."""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, RootModel, Tag

from jobs.status import JobStatus
from service.schemas.evaluation import EvaluateCreate
from service.schemas.quantization import QuantizeCreate
from service.schemas.sweep import SweepCreate

KIND_UNKNOWN: Final = "kind_unknown"
"""Type of the error that says so."""


def _kind(body: object) -> str:
    if isinstance(body, dict):
        return str(body.get("kind", "quantize"))
    return str(getattr(body, "kind", "quantize"))


class JobCreate(
    RootModel[
        Annotated[
            Annotated[QuantizeCreate, Tag("quantize")]
            | Annotated[EvaluateCreate, Tag("evaluate")]
            | Annotated[SweepCreate, Tag("sweep")],
            Discriminator(
                _kind,
                custom_error_type=KIND_UNKNOWN,
                custom_error_message="There is no such kind of job",
            ),
        ]
    ]
):
    """Body of POST /jobs: `kind` says which of the three, by default `quantize`."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "model": "ddpm-cifar10-small",
                    "weight_bits": 4,
                    "activation_bits": 8,
                },
                {
                    "kind": "quantize",
                    "model": "ddpm-cifar10-small",
                    "weight_bits": 4,
                    "activation_bits": 8,
                    "evaluation": {"protocol": "quick"},
                    "guards": {"min_psnr_db": 20, "on_violation": "raise_bits"},
                },
                {
                    "kind": "evaluate",
                    "target": {"job_id": "job_019ab6f0a1b27c3d8e4f5a6b7c8d9e0f"},
                    "evaluation": {"protocol": "quick"},
                },
                {
                    "kind": "sweep",
                    "model": "ddpm-cifar10-small",
                    "settings": [
                        {"weight_bits": 8, "activation_bits": 8},
                        {"weight_bits": 4, "activation_bits": 8},
                    ],
                    "recipes": ["rtn", "standard"],
                    "evaluation": {"protocol": "quick", "num_images": 500},
                },
            ]
        },
    )


class JobsQuery(BaseModel):
    """Query parameters of GET /jobs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["quantize", "evaluate", "sweep"] | None = None
    status: JobStatus | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    after: Annotated[str, Field(max_length=100)] | None = None
    """`next` of the page before."""
    order: Literal["desc", "asc"] = "desc"
    """By creation time; desc is newest first."""

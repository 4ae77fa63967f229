"""Body of POST /jobs with ``kind: evaluate``, and the scores of any job."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from service.schemas.labels import Labels
from service.schemas.target import ExecutionAsked, Target
from tcaq_core.evaluation.record import ScoreRecord
from tcaq_core.evaluation.spec import Evaluation


class EvaluateCreate(BaseModel):
    """Score a checkpoint, or a model as it is; a target is all that is required."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["evaluate"]
    target: Target
    evaluation: Evaluation = Evaluation()
    """What is drawn, compared and measured. A model in full precision has no
    `baseline`: it is its own."""
    execution: ExecutionAsked = "auto"
    labels: Labels = {}
    """Words of your own to find the job by."""


class ScoreList(BaseModel):
    """GET /jobs/{job_id}/scores: one record per metric."""

    object: Literal["list"] = "list"
    data: list[ScoreRecord]

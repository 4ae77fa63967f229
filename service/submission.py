"""From the body of POST /jobs to what is queued, everything checked."""

from dataclasses import dataclass
from typing import assert_never

from sqlalchemy.orm import Session

from jobs.artifacts import ArtifactStore
from jobs.models import JobKind, Json
from jobs.settings import Settings
from service.evaluation import alone, check_image_size, plan_of
from service.exports import check_exports
from service.guards import check_guards
from service.local_models import check_model
from service.schemas.evaluation import EvaluateCreate
from service.schemas.quantization import QuantizeCreate
from service.schemas.submission import JobCreate
from service.schemas.sweep import SweepCreate
from service.targets import check_target_model, model_of
from tcaq_core.recipe import Recipe


@dataclass(frozen=True)
class Submission:
    """What the ledger is given of a job."""

    kind: JobKind
    request: Json
    """The body with every default, and the evaluation's `plan` beside it."""
    model: str
    recipe: Recipe | None


def accept(
    body: JobCreate, *, session: Session, settings: Settings, store: ArtifactStore
) -> Submission:
    """Return what to queue.

    Files are read before the ledger is asked: SQLite's transactions exclude one
    another, and reading takes longer than any of them should.

    Raises:
        RequestInvalid: a value that these settings or the target do not allow.
        FieldRejected: a model, target or file that is missing or cannot be used.
    """
    match body.root:
        case QuantizeCreate() as asked:
            return _quantization(asked, settings, store)
        case EvaluateCreate() as asked:
            return _evaluation(asked, session, settings, store)
        case SweepCreate() as asked:
            return _sweep(asked, settings, store)
        case _:
            assert_never(body.root)


def _quantization(
    asked: QuantizeCreate, settings: Settings, store: ArtifactStore
) -> Submission:
    check_model(asked.model, settings)
    check_exports(asked)
    check_guards(asked.guards, asked.evaluation)
    request = asked.model_dump(mode="json") | {"plan": None}
    if asked.evaluation is not None:
        plan = plan_of(asked.evaluation, settings, store)
        check_image_size(plan, asked.model, settings)
        request["plan"] = plan.model_dump(mode="json")
    return Submission(JobKind.QUANTIZE, request, asked.model, asked.resolved())


def _evaluation(
    asked: EvaluateCreate, session: Session, settings: Settings, store: ArtifactStore
) -> Submission:
    target = asked.target
    check_target_model(target, settings, execution=asked.execution)
    wanted = asked.evaluation if target.model is None else alone(asked.evaluation)
    plan = plan_of(wanted, settings, store)
    model = model_of(session, target)
    check_image_size(plan, model, settings)
    request = asked.model_dump(mode="json") | {
        # Without the two targets that were not given: exactly one key is left.
        "target": target.model_dump(exclude_none=True),
        "evaluation": wanted.model_dump(mode="json"),
        "plan": plan.model_dump(mode="json"),
    }
    return Submission(JobKind.EVALUATE, request, model, None)


def _sweep(asked: SweepCreate, settings: Settings, store: ArtifactStore) -> Submission:
    check_model(asked.model, settings)
    plan = plan_of(asked.evaluation, settings, store)
    check_image_size(plan, asked.model, settings)
    request = asked.model_dump(mode="json") | {"plan": plan.model_dump(mode="json")}
    return Submission(JobKind.SWEEP, request, asked.model, None)

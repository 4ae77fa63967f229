"""The work of an evaluation: shards by as many workers as there are, then scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from jobs.artifacts import StoredArtifact
from jobs.models import Job
from tcaq_core.evaluation.plan import EvaluationPlan
from tcaq_core.evaluation.reference import Reference, load_reference
from tcaq_core.evaluation.scoring import Scored, score
from tcaq_core.fingerprint import environment_digest
from worker.context import Context
from worker.description import describe
from worker.drawing import STAGE, draw_subjects
from worker.execution import Wanted, described
from worker.files import Files
from worker.loading import load_baseline
from worker.memory import return_memory
from worker.models import Loaded
from worker.outcome import Progress, Succeeded
from worker.scorable import require_scorable
from worker.subjects import CheckpointSubject, ModelSubject, Subject, model_subject
from worker.targets import Target, checkpoint_of, load_target

# Of the artifacts with kept images: `images/0`, `baseline-images/0`.
PREFIXES = {"target": "images", "baseline": "baseline-images"}


class EvaluateRequest(BaseModel, frozen=True):
    """The part of an evaluation's stored request that the work depends on."""

    target: Target
    plan: EvaluationPlan
    execution: Wanted = "auto"


@dataclass(frozen=True)
class Subjects:
    """Whose images are drawn, and how they execute."""

    target: Subject
    baseline: ModelSubject | None
    execution: str

    def named(self) -> dict[str, Subject]:
        """Return them by name, without a baseline that is not there."""
        baseline = {} if self.baseline is None else {"baseline": self.baseline}
        return {"target": self.target, **baseline}


@dataclass(frozen=True)
class Evaluated:
    """An evaluation's part of a job's result, and the images that were kept."""

    result: dict[str, Any]
    artifacts: dict[str, StoredArtifact]


def evaluate(job: Job, context: Context, progress: Progress) -> Succeeded:
    """Score a checkpoint or a model, and the full-precision model if asked.

    Raises:
        TCAQError, JobError: as `evaluate_subjects`; or the target is not there.
    """
    request = EvaluateRequest.model_validate(job.request)
    progress("fetch", 0, 1)
    loaded = load_target(request.target, context, execution=request.execution)
    describe(job, context, loaded.info)
    target: Subject
    if request.target.model is not None:
        target = model_subject(loaded)
    else:
        sha256 = checkpoint_of(request.target, context)
        target = CheckpointSubject(checkpoint=sha256, execution=request.execution)
    subjects = subjects_of(target, loaded, request.plan, context)
    execution = described(loaded.execution)
    del loaded
    progress("fetch", 1, 1)
    evaluated = evaluate_subjects(job, context, request.plan, subjects, progress)
    return Succeeded(
        result={"evaluation": evaluated.result, **execution},
        artifacts=evaluated.artifacts,
    )


def subjects_of(
    target: Subject, loaded: Loaded, plan: EvaluationPlan, context: Context
) -> Subjects:
    """Return whose images a plan needs, the target being loaded.

    Raises:
        TCAQError, JobError: as `require_scorable`.
        ModelNotFound: the model that the target was quantized from is gone.
    """
    channels, height, width = loaded.pipeline.image_shape
    require_scorable(plan, context, image_size=(height, width), channels=channels)
    baseline = None
    if plan.baseline:
        baseline = model_subject(load_baseline(loaded, context))
    execution = described(loaded.execution)["execution"]
    return Subjects(target, baseline, str(execution))


def evaluate_subjects(
    job: Job,
    context: Context,
    plan: EvaluationPlan,
    subjects: Subjects,
    progress: Progress,
) -> Evaluated:
    """Draw and score all images of the target, and of the baseline.

    Every shard is a row that any worker may claim; this one works them, too, and waits
    for the others'. The scores do not depend on who made which.

    Raises:
        EvaluationFailed, ReferenceUnusable: images that give no score, or a reference
            that is damaged.
        Interrupted: the job must stop.
    """
    drawn = draw_subjects(job, context, plan, subjects.named(), progress)
    # Nobody needs the models any more; scoring needs the memory.
    context.pipelines.clear()
    return_memory(context.device)
    total = len(drawn) * plan.num_images
    with Files(context) as files:
        images = {name: one.images(context, files) for name, one in drawn.items()}
        records = score(
            Scored(
                plan, images["target"], images.get("baseline"), _reference(plan, files)
            ),
            execution=subjects.execution,
            environment_digest=environment_digest(context.device),
            tick=lambda: progress(STAGE, total, total),
        )
    kept = {
        name: tar
        for subject, one in drawn.items()
        for name, tar in one.kept(PREFIXES[subject]).items()
    }
    result = {
        "plan_digest": plan.digest(),
        "protocol": plan.protocol,
        "scores": [record.model_dump(mode="json") for record in records],
        "images": _listed(kept),
        "shards": {
            "count": sum(len(one.shards) for one in drawn.values()),
            "seconds": sum(one.seconds for one in drawn.values()),
        },
    }
    return Evaluated(result, kept)


def _reference(plan: EvaluationPlan, files: Files) -> Reference | None:
    if plan.reference is None:
        return None
    sha256 = plan.reference.stats_sha256
    return load_reference(files.path(sha256), expected_sha256=sha256)


def _listed(kept: Mapping[str, StoredArtifact]) -> list[dict[str, Any]] | None:
    """Return the kept images as a result names them; null where none were."""
    listed = [
        {"name": name, "sha256": tar.sha256, "size_bytes": tar.size_bytes}
        for name, tar in kept.items()
    ]
    return listed or None

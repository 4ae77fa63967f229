"""A quantization that is scored, and repaired where it breaks its guards."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jobs.models import Job
from jobs.stages import PERMILLE_ALL, Stage, plan, progress_of
from tcaq_core.calibration import CalibrationSet
from tcaq_core.errors import GuardViolated
from tcaq_core.evaluation.guard import Violation, repaired, violations
from tcaq_core.evaluation.plan import EvaluationPlan
from tcaq_core.evaluation.record import ScoreRecord
from tcaq_core.evaluation.spec import Guards
from tcaq_core.recipe import Recipe
from worker.context import Context
from worker.evaluate import Evaluated, evaluate_subjects, subjects_of
from worker.exports import QuantizeRequest
from worker.journals import AttemptJournal
from worker.loading import load_checkpoint
from worker.outcome import Progress, Succeeded
from worker.quantize import Quantized, quantize_once
from worker.scorable import require_scorable_model
from worker.subjects import CheckpointSubject


@dataclass(frozen=True)
class Round:
    """One quantization with its scores."""

    quantized: Quantized
    evaluated: Evaluated

    @property
    def scores(self) -> list[ScoreRecord]:
        """The scores, as records again."""
        return [
            ScoreRecord.model_validate(score)
            for score in self.evaluated.result["scores"]
        ]

    def succeeded(self, guards: Mapping[str, Any] | None) -> Succeeded:
        """Return the job's outcome."""
        result = {**self.quantized.result, "evaluation": self.evaluated.result}
        return Succeeded(
            result={**result, "guards": guards},
            artifacts={**self.quantized.artifacts, **self.evaluated.artifacts},
        )


@dataclass(frozen=True)
class Attempt:
    """One attempt at a job that is scored."""

    job: Job
    context: Context
    progress: Progress
    journal: AttemptJournal
    evaluation: EvaluationPlan
    data: CalibrationSet | None = None
    """A calibration that several recipes share."""

    def run(self, recipe: Recipe, progress: Progress) -> Round:
        """Quantize with a recipe and score what comes of it."""
        quantized = quantize_once(
            self.job, recipe, self.context, progress, self.journal, data=self.data
        )
        self.journal.finished()
        evaluated = evaluate_checkpoint(
            self.job, self.context, self.evaluation, quantized.checkpoint, progress
        )
        return Round(quantized, evaluated)


def quantize(
    job: Job, context: Context, progress: Progress, journal: AttemptJournal
) -> Succeeded:
    """Quantize; score the checkpoint if asked; see that the guards hold.

    Raises:
        GuardViolated: they do not, and nothing that may be changed makes them.
        TCAQError, JobError: as `quantize_once` and `evaluate_subjects`.
    """
    request = QuantizeRequest.model_validate(job.request)
    recipe = Recipe.model_validate(job.recipe)
    if request.plan is None:
        made = quantize_once(job, recipe, context, progress, journal)
        return Succeeded(result=made.result, artifacts=made.artifacts)
    progress("fetch", 0, 1)
    require_scorable_model(job.model, request.plan, context)
    attempt = Attempt(job, context, progress, journal, request.plan)
    first = attempt.run(recipe, progress)
    if request.guards is None:
        return first.succeeded(None)
    stages = plan(recipe, exports=request.exports, evaluation=request.plan)
    return _guard(attempt, first, recipe, request.guards, stages)


def evaluate_checkpoint(
    job: Job,
    context: Context,
    evaluation: EvaluationPlan,
    sha256: str,
    progress: Progress,
) -> Evaluated:
    """Score a checkpoint that this job has just stored."""
    loaded = load_checkpoint(sha256, context)
    subjects = subjects_of(
        CheckpointSubject(checkpoint=sha256), loaded, evaluation, context
    )
    del loaded
    return evaluate_subjects(job, context, evaluation, subjects, progress)


@dataclass
class _Rounds:
    """What was changed in each round, and what it gave."""

    rounds: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self,
        changed: Mapping[str, Any] | None,
        broken: tuple[Violation, ...],
        scores: list[ScoreRecord],
    ) -> None:
        values = {score.metric: score.value for score in scores}
        deltas = {
            f"{score.metric}_delta": score.baseline.delta
            for score in scores
            if score.baseline is not None
        }
        self.rounds.append(
            {
                "changed": changed,
                "values": values | deltas,
                "violations": [str(item) for item in broken],
            }
        )


def _guard(
    attempt: Attempt,
    first: Round,
    recipe: Recipe,
    guards: Guards,
    stages: tuple[Stage, ...],
) -> Succeeded:
    history, current, index = _Rounds(), first, 0
    changed: dict[str, Any] | None = None
    while True:
        broken = violations(guards, current.scores)
        history.add(changed, broken, current.scores)
        if not broken:
            return current.succeeded({"satisfied": True, "rounds": history.rounds})
        index += 1
        if guards.on_violation == "fail" or index > guards.max_rounds:
            raise _violated(broken, guards, rounds=index - 1)
        # Always from the first recipe and report: a round's change contains the one
        # before it, and is chosen by what the first quantization showed.
        repair = repaired(
            recipe, first.quantized.layers or {}, guards, round_index=index
        )
        changed = {
            "on_violation": guards.on_violation,
            "layers": list(repair.layers),
            "recipe": repair.recipe.model_dump(mode="json"),
            "recipe_digest": repair.recipe.digest(),
        }
        progress = _within(attempt.progress, stages, guards, index)
        current = attempt.run(repair.recipe, progress)


def _within(
    progress: Progress, stages: tuple[Stage, ...], guards: Guards, index: int
) -> Progress:
    """Return the progress of a round as a share of the stage `guard`."""

    def tell(stage: str, done: int, total: int) -> None:
        share = progress_of(stages, stage, done=done, total=total).fraction
        rounds = index - 1 + share
        progress("guard", int(PERMILLE_ALL * rounds / guards.max_rounds), PERMILLE_ALL)

    return tell


def _violated(
    broken: tuple[Violation, ...], guards: Guards, *, rounds: int
) -> GuardViolated:
    tried = f" after {rounds} rounds of {guards.on_violation}" if rounds else ""
    return GuardViolated(
        f"The guards do not hold{tried}: {'; '.join(map(str, broken))}.",
        hint="Raise the limits, ask for more bits, or set guards.on_violation to "
        "raise_bits or skip_layers. Without guards, the same job goes on from here.",
    )

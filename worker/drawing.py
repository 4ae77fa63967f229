"""All images of an evaluation's subjects, as shards that any worker may make."""

from collections.abc import Mapping
from dataclasses import dataclass

from jobs import shards
from jobs.artifacts import StoredArtifact
from jobs.errors import ArtifactCorrupt
from jobs.models import Job
from jobs.shards import ShardResult
from tcaq_core.evaluation.plan import EvaluationPlan
from tcaq_core.evaluation.shard import Subject as Images
from tcaq_core.fingerprint import environment_digest
from worker.clock import utc_now
from worker.context import Context
from worker.files import Files
from worker.outcome import Progress
from worker.shard_work import ShardRequest, make_shard
from worker.shards import IMAGES, complete_set
from worker.subjects import Subject

STAGE = "evaluate"


@dataclass(frozen=True)
class Drawn:
    """One subject's shards, all of them made."""

    digest: str
    shards: tuple[ShardResult, ...]
    subject: Subject

    @property
    def seconds(self) -> float:
        """What making them took, whoever made them and when."""
        return sum(one.seconds for one in self.shards)

    def images(self, context: Context, files: Files) -> Images:
        """Return the shards as files.

        Raises:
            ArtifactCorrupt: one is damaged; it is made anew when it is next asked for.
        """
        paths = []
        for one in self.shards:
            try:
                paths.append(files.path(one.sha256))
            except ArtifactCorrupt:
                with context.sessions.begin() as session:
                    shards.forget_result(
                        session, self.digest, number=one.number, sha256=one.sha256
                    )
                raise
        identity = self.subject.model_dump(mode="json")
        return Images(
            tuple(paths), {key: str(value) for key, value in identity.items()}
        )

    def kept(self, prefix: str) -> dict[str, StoredArtifact]:
        """Return the tars of images that were kept: ``<prefix>/0``."""
        return {
            f"{prefix}/{one.number}": StoredArtifact(
                one.images_sha256, one.images_bytes or 0, IMAGES
            )
            for one in self.shards
            if one.images_sha256 is not None
        }


def draw_subjects(
    job: Job,
    context: Context,
    plan: EvaluationPlan,
    subjects: Mapping[str, Subject],
    progress: Progress,
) -> dict[str, Drawn]:
    """Have every subject's shards made, by this worker and whoever else is free.

    Raises:
        EvaluationFailed: images or features that are not finite.
        Interrupted: the job must stop.
    """
    own = environment_digest(context.device)
    requests = {
        name: ShardRequest(subject=subject, plan=plan, environment_digest=own)
        for name, subject in subjects.items()
    }
    # All of them before the first is worked on: helpers find what to do.
    for request in requests.values():
        _open(job, context, plan, request)
    total = len(requests) * plan.num_images
    drawn: dict[str, Drawn] = {}
    for name, request in requests.items():
        before = len(drawn) * plan.num_images

        def tick(done: int, _all: int, before: int = before) -> None:
            images = min(done * plan.shard_images, plan.num_images)
            progress(STAGE, before + images, total)

        made = complete_set(request.digest(), context, make_shard(context), tick=tick)
        drawn[name] = Drawn(request.digest(), made, request.subject)
    return drawn


def _open(
    job: Job, context: Context, plan: EvaluationPlan, request: ShardRequest
) -> None:
    with context.sessions.begin() as session:
        shards.open_set(
            session,
            job.id,
            digest=request.digest(),
            request=request.model_dump(mode="json"),
            num_shards=plan.num_shards,
            now=utc_now(),
        )

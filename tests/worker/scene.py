"""A finished quantization, and a network and statistics to score it with."""

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from jobs import repository
from jobs.models import Job, JobKind
from jobs.status import JobStatus
from tcaq_core import checkpoint
from tcaq_core.evaluation.extractor_folder import find_extractor
from tcaq_core.evaluation.plan import EvaluationPlan, resolve_evaluation
from tcaq_core.evaluation.reference_file import find_reference, read_reference
from tcaq_core.evaluation.spec import Evaluation
from tests.extractors import NAME, REFERENCE, save_evaluation_directory
from tests.factories import make_job
from tests.worker.conftest import Finished
from worker import archive
from worker.clock import utc_now
from worker.context import Context
from worker.run import run_job

IMAGES, STEPS = 24, 2
METRICS = ("fd", "kd", "precision", "psnr_db", "feature_distance")


@dataclass(frozen=True)
class Scene:
    """A finished quantization, and what its checkpoint can be scored with."""

    context: Context
    quantized: Job

    def plan(self, **changes: Any) -> EvaluationPlan:  # noqa: ANN401 - request fields
        asked = Evaluation.model_validate(
            {
                "metrics": METRICS,
                "extractor": NAME,
                "reference": REFERENCE,
                "num_images": IMAGES,
                "num_steps": STEPS,
                "batch_size": 4,
                "shard_images": 8,
                "paired_images": 10,
                **changes,
            }
        )
        directory = self.context.settings.evaluation_directory
        reference = None
        if asked.compared_with is not None:
            path = find_reference(asked.compared_with, directory=directory)
            stored = self.context.store.put(path, media_type="application/octet-stream")
            reference = read_reference(path)
            assert stored.sha256 == reference.stats_sha256
        extractor = None
        if asked.network is not None:
            extractor = find_extractor(
                asked.network,
                directory=directory / "extractors",
                inception_weights=None,
                dtype="float32",
            )
        return resolve_evaluation(asked, extractor=extractor, reference=reference)

    @property
    def made(self) -> str:
        assert self.quantized.result is not None
        sha256: str = self.quantized.result["checkpoint"]["sha256"]
        return sha256

    def load(self, sha256: str) -> checkpoint.Checkpoint:
        with (
            TemporaryDirectory() as folder,
            self.context.store.open(sha256) as stored,
        ):
            archive.unpack(stored, Path(folder))
            return checkpoint.load(Path(folder), device=self.context.device)

    def run(
        self,
        request: dict[str, Any],
        *,
        kind: JobKind = JobKind.EVALUATE,
        **job: Any,  # noqa: ANN401 - a job's fields
    ) -> Job:
        with self.context.sessions.begin() as session:
            made = make_job(session, kind=kind, request=request, now=utc_now(), **job)
        run_job(made.id, self.context)
        with self.context.sessions() as session:
            return repository.get(session, made.id)

    def evaluate(self, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - fields
        plan = self.plan(**changes).model_dump(mode="json")
        job = self.run({"target": {"checkpoint": self.made}, "plan": plan})
        assert job.status == JobStatus.SUCCEEDED, job.error
        assert job.result is not None
        return dict(job.result)


@pytest.fixture(name="scene")
def make_scene(finished: Finished, tmp_path: Path) -> Scene:
    directory = save_evaluation_directory(tmp_path / "evaluation")
    settings = finished.context.settings.model_copy(
        update={"evaluation_directory": directory}
    )
    return Scene(replace(finished.context, settings=settings), finished.job)

import io
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from PIL import Image

from jobs import repository
from jobs.artifacts import LocalStore
from jobs.ids import new_id, public_id
from jobs.models import Job, JobKind
from jobs.status import JobStatus
from tests.factories import make_job
from tests.tiny import save_tiny_pipeline
from tests.worker.conftest import Finished
from worker.clock import utc_now
from worker.context import Context
from worker.run import run_job

QUICK = {"steps": 3, "eta": 0.0}


@pytest.fixture
def context(finished: Finished) -> Context:
    return finished.context


@pytest.fixture
def quantized(finished: Finished) -> Job:
    return finished.job


def _read(context: Context, job_id: UUID) -> Job:
    with context.sessions() as session:
        return repository.get(session, job_id)


def _end(context: Context, target: Mapping[str, str], **order: Any) -> Job:  # noqa: ANN401 - the order's own keys
    request = {"target": dict(target), "n": 2, "sampler": QUICK, **order}
    with context.sessions.begin() as session:
        kind = JobKind.SAMPLE
        job_id = make_job(session, kind=kind, request=request, now=utc_now()).id
    run_job(job_id, context)
    return _read(context, job_id)


def _sample(context: Context, target: Mapping[str, str], **order: Any) -> Any:  # noqa: ANN401 - JSON
    job = _end(context, target, **order)
    assert job.status == JobStatus.SUCCEEDED, job.error
    return job.result


def _code(context: Context, target: Mapping[str, str], **order: Any) -> str:  # noqa: ANN401 - the order's own keys
    job = _end(context, target, **order)
    assert job.status == JobStatus.FAILED
    assert job.error is not None
    return str(job.error["code"])


def _pixels(context: Context, image: Mapping[str, Any]) -> Any:  # noqa: ANN401 - an array
    with context.store.open(image["sha256"]) as stored:
        return np.asarray(Image.open(io.BytesIO(stored.read())))


def _hashes(images: list[dict[str, Any]]) -> list[str]:
    return [image["sha256"] for image in images]


def _checkpoint(job: Job) -> str:
    assert job.result is not None
    return str(job.result["checkpoint"]["sha256"])


def test_a_job_and_its_checkpoint_are_the_same_target(
    context: Context, quantized: Job
) -> None:
    by_job = _sample(context, {"job_id": public_id(quantized.kind, quantized.id)})
    by_hash = _sample(context, {"checkpoint": _checkpoint(quantized)})
    assert by_job["images"] == by_hash["images"]
    assert by_job["grid"] == by_hash["grid"]
    assert quantized.result is not None
    for name in ("execution", "execution_details"):
        assert by_job[name] == quantized.result[name]
    assert by_job["baseline"] is None
    assert by_job["metrics"] is None
    assert by_job["seconds_per_image"] > 0


def test_every_image_follows_from_its_own_seed(context: Context) -> None:
    target = {"model": "tiny"}
    three = _sample(context, target, n=3, seeds={"start": 5})["images"]
    assert [image["seed"] for image in three] == [5, 6, 7]
    assert len(set(_hashes(three))) == 3
    last = _sample(context, target, n=1, seeds={"start": 7})["images"]
    assert (
        np.abs(_pixels(context, last[0]).astype(int) - _pixels(context, three[2])).max()
        <= 1
    )


def test_the_baseline_is_the_full_precision_model_on_the_same_noise(
    context: Context, quantized: Job
) -> None:
    target = {"checkpoint": _checkpoint(quantized)}
    compared = _sample(context, target, compare_to="baseline")
    alone = _sample(context, {"model": "tiny"})
    assert compared["baseline"] == alone["images"]
    assert alone["execution"] == "full-precision"
    assert alone["execution_details"] is None
    assert _hashes(compared["images"]) != _hashes(alone["images"])
    assert 0 < compared["metrics"]["psnr_db"] < 100


def test_simulated_execution_is_had_by_asking_for_it(
    context: Context, quantized: Job
) -> None:
    target = {"checkpoint": _checkpoint(quantized)}
    chosen = _sample(context, target, compare_to="baseline")
    simulated = _sample(context, target, compare_to="baseline", execution="simulated")
    assert simulated["execution"] == "simulated"
    assert simulated["execution_details"]["kernels"] == "torch-float32"
    assert simulated["baseline"] == chosen["baseline"]
    # The same codes: what differs is the rounding of sums.
    assert simulated["metrics"]["psnr_db"] == pytest.approx(
        chosen["metrics"]["psnr_db"], abs=1.0
    )
    # Compiling one did not change the other.
    again = _sample(context, target)
    assert again["images"] == chosen["images"]


def test_integers_that_are_asked_for_are_used_or_refused(
    context: Context, quantized: Job
) -> None:
    target = {"checkpoint": _checkpoint(quantized)}
    assert quantized.result is not None
    if quantized.result["execution"] == "integer":
        drawn = _sample(context, target, execution="integer")
        assert drawn["execution"] == "integer"
    else:
        code = _code(context, target, execution="integer")
        assert code == "execution_unavailable"


def test_the_grid_shows_full_precision_above_quantized(
    context: Context, quantized: Job
) -> None:
    target = {"checkpoint": _checkpoint(quantized)}
    made = _sample(context, target, compare_to="baseline")
    grid = _pixels(context, made["grid"])
    assert grid.shape == (made["grid"]["height"], made["grid"]["width"], 3)
    for column, (top, below) in enumerate(
        zip(made["baseline"], made["images"], strict=True)
    ):
        left = 2 + column * 10
        assert np.array_equal(grid[2:10, left : left + 8], _pixels(context, top))
        assert np.array_equal(grid[12:20, left : left + 8], _pixels(context, below))


def test_a_grid_is_drawn_only_if_asked_for(context: Context) -> None:
    job = _end(context, {"model": "tiny"}, output={"grid": False})
    assert job.result is not None
    assert job.result["grid"] is None
    with context.sessions() as session:
        assert set(repository.job_artifacts(session, job.id)) == {"image/0", "image/1"}


def test_a_checkpoint_stays_loaded_from_one_sample_to_the_next(
    context: Context, quantized: Job
) -> None:
    target = {"checkpoint": _checkpoint(quantized)}
    first = _sample(context, target)
    path = context.store.path(_checkpoint(quantized))
    assert path is not None
    path.unlink()
    assert _sample(context, target)["images"] == first["images"]


def test_a_damaged_checkpoint_is_not_used(context: Context, quantized: Job) -> None:
    path = context.store.path(_checkpoint(quantized))
    assert path is not None
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    target = {"checkpoint": _checkpoint(quantized)}
    assert _code(context, target) == "artifact_corrupt"
    assert list(context.scratch.iterdir()) == []


def test_an_artifact_that_is_no_checkpoint_is_refused(context: Context) -> None:
    assert isinstance(context.store, LocalStore)
    stored = context.store.put_bytes(b"x" * 2000, media_type="image/png")
    target = {"checkpoint": stored.sha256}
    assert _code(context, target) == "checkpoint_shape_mismatch"


def test_a_model_that_has_changed_is_no_baseline(
    context: Context, quantized: Job
) -> None:
    save_tiny_pipeline(context.settings.models_directory / "tiny", seed=2)
    target = {"checkpoint": _checkpoint(quantized)}
    assert _code(context, target, compare_to="baseline") == "model_not_found"
    assert _sample(context, target)["images"]


def test_a_model_folder_that_has_changed_is_loaded_again(context: Context) -> None:
    before = _sample(context, {"model": "tiny"})
    save_tiny_pipeline(context.settings.models_directory / "tiny", seed=2)
    after = _sample(context, {"model": "tiny"})
    assert _hashes(before["images"]) != _hashes(after["images"])


def test_a_target_without_checkpoint_is_not_ready(context: Context) -> None:
    target = {"job_id": public_id(JobKind.QUANTIZE, new_id())}
    assert _code(context, target) == "job_not_ready"


def test_a_checkpoint_that_nobody_stored_is_not_found(context: Context) -> None:
    assert _code(context, {"checkpoint": "0" * 64}) == "artifact_not_found"

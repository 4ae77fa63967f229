from datetime import timedelta

from sqlalchemy.orm import Session

from jobs import repository
from jobs.models import Job
from jobs.stages import Progress
from service.job_view import etag, job_object, sample_object
from tests.factories import NOON, make_job, make_running_job


def halfway(stage: str = "par") -> Progress:
    """Return the progress of a job that is half done."""
    return Progress(
        stage=stage,
        stage_index=5,
        stage_count=8,
        done=10,
        total=40,
        unit="block",
        fraction=0.5,
    )


def test_a_second_attempt_is_estimated_from_its_own_beginning(
    session: Session,
) -> None:
    job, lease = make_running_job(session)
    repository.release(session, lease, now=NOON + timedelta(hours=1))
    again = NOON + timedelta(hours=2)
    second = repository.claim(session, job.id, owner="worker-2", now=again)
    assert second is not None
    lease = repository.lease_of(second)
    for seconds in (0, 100):
        moment = again + timedelta(seconds=seconds)
        repository.heartbeat(session, lease, progress=halfway(), now=moment)
    session.refresh(second)
    shown = job_object(second)
    assert shown.progress.eta_s == 100.0
    assert shown.progress.rate_per_s == 0.1
    assert shown.started_at == NOON


def test_the_gpu_is_counted_only_where_there_is_one(session: Session) -> None:
    job, lease = make_running_job(session)
    assert job_object(job).usage.gpu_seconds is None
    later = NOON + timedelta(seconds=90)
    described = {"model_info": {"reference": "tiny", "num_parameters": 6}}
    for gpu, seconds in ((None, 0.0), ("H100", 90.0)):
        repository.describe(
            session, lease, **described, environment={"gpu": gpu}, now=later
        )
        session.refresh(job)
        assert job_object(job).usage.worker_seconds == 90.0
        assert job_object(job).usage.gpu_seconds == seconds
    assert job_object(job).model.num_parameters == 6


def test_an_object_is_a_function_of_the_row_alone(session: Session) -> None:
    job, lease = make_running_job(session)
    repository.heartbeat(session, lease, progress=halfway(), now=NOON)
    session.refresh(job)
    assert job_object(job) == job_object(job)
    assert job_object(job).model_dump_json() == job_object(job).model_dump_json()


def test_every_change_of_the_row_changes_its_etag(session: Session) -> None:
    job = make_job(session)
    seen = {etag(job, ahead=0), etag(job, ahead=1), etag(job, ahead=None)}
    claimed: Job | None = repository.claim(session, job.id, owner="w", now=NOON)
    assert claimed is not None
    seen.add(etag(claimed, ahead=None))
    repository.request_cancel(session, job.id, now=NOON)
    seen.add(etag(job, ahead=None))
    assert len(seen) == 5


def test_moments_are_written_in_utc_with_a_z(session: Session) -> None:
    shown = job_object(make_job(session)).model_dump(mode="json")
    assert shown["created_at"] == "2026-11-21T12:00:00Z"
    assert shown["finished_at"] is None


def test_a_sample_without_a_result_shows_nothing_drawn(session: Session) -> None:
    job = make_job(session, request={"n": 4})
    shown = sample_object(job)
    assert (shown.images, shown.grid, shown.execution) == (None, None, None)
    assert shown.request == {"n": 4}


def test_a_resumed_attempt_says_from_where_and_counts_only_its_own_work(
    session: Session,
) -> None:
    job, lease = make_running_job(session)
    resumed = repository.Resumption("par/round-0/mid_block.resnets.0", 0.25)
    for seconds in (0, 100):
        repository.heartbeat(
            session,
            lease,
            progress=halfway(),
            now=NOON + timedelta(seconds=seconds),
            resumed=resumed,
        )
    shown = job_object(job)
    assert shown.attempt.resumed_from == resumed.entry
    # 25 % in 100 seconds, so 50 % more take 200.
    assert shown.progress.eta_s == 200.0
    assert shown.progress.rate_per_s is None


def test_what_a_running_job_has_noted_is_not_its_result(session: Session) -> None:
    job, lease = make_running_job(session)
    noted = {"points": [], "picture": {"sha256": "0" * 64}, "compression_ratio": 2.0}
    repository.note(session, lease, result=noted, now=NOON)
    session.refresh(job)
    shown = job_object(job)
    assert (shown.result, shown.metrics) == (None, {})
    assert shown.urls.pareto_picture is None
    repository.finish(session, lease, result=noted, artifacts={}, now=NOON)
    session.refresh(job)
    shown = job_object(job)
    assert (shown.result, shown.metrics) == (noted, {"compression_ratio": 2.0})
    assert shown.urls.pareto_picture is not None

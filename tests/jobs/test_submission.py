from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Event

import pytest
from sqlalchemy.orm import Session, sessionmaker

from jobs import repository
from jobs.artifacts import StoredArtifact
from jobs.errors import ArtifactNotFound, IllegalTransition, JobNotFound
from jobs.ids import new_id
from jobs.models import Job, JobKind
from jobs.status import JobStatus
from tcaq_core.recipe import Recipe
from tests.factories import NOON, make_job, make_recipe, make_running_job

SECOND = timedelta(seconds=1)


def test_a_submitted_job_is_queued_with_its_recipe_and_labels(
    sessions: sessionmaker[Session],
) -> None:
    recipe = make_recipe("tcaq")
    with sessions.begin() as session:
        job_id = make_job(session, recipe=recipe, request={"labels": {"team": "a"}}).id
    with sessions() as session:
        job = repository.get(session, job_id)
    assert job.status == JobStatus.QUEUED
    assert Recipe.model_validate(job.recipe) == recipe
    assert job.recipe_digest == recipe.digest()
    assert job.labels == {"team": "a"}
    assert (job.attempt, job.version, job.fraction) == (0, 1, 0.0)
    assert job.created_at == job.queued_at == job.rung_at == NOON


def test_an_unknown_id_is_no_job(session: Session) -> None:
    with pytest.raises(JobNotFound):
        repository.get(session, new_id())
    with pytest.raises(JobNotFound):
        repository.request_cancel(session, new_id(), now=NOON)


def _walk(
    session: Session, *, limit: int, status: JobStatus | None = None, newest_first: bool
) -> list[Job]:
    seen: list[Job] = []
    while True:
        after = (seen[-1].created_at, seen[-1].id) if seen else None
        page = repository.page(
            session,
            limit=limit,
            status=status,
            after=after,
            newest_first=newest_first,
        )
        seen += page.jobs
        if not page.has_more:
            return seen
        assert len(page.jobs) == limit


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("limit", [1, 3, 7, 8])
def test_pages_follow_one_another_without_gap_or_repeat(
    session: Session, limit: int, *, newest_first: bool
) -> None:
    # Three of them in the same instant: only the id tells them apart.
    instants = [NOON, NOON, NOON, *(NOON + n * SECOND for n in range(4))]
    made = [make_job(session, now=now).id for now in instants]
    seen = [job.id for job in _walk(session, limit=limit, newest_first=newest_first)]
    assert seen == (made[::-1] if newest_first else made)


def test_a_page_holds_only_the_kind_and_status_asked_for(session: Session) -> None:
    running, _ = make_running_job(session)
    queued = make_job(session)
    sample = make_job(session, kind=JobKind.SAMPLE)
    page = repository.page(session, limit=10, status=JobStatus.RUNNING)
    assert page == repository.Page(jobs=(running,), has_more=False)
    assert repository.page(session, limit=10, kinds=[JobKind.SAMPLE]).jobs == (sample,)
    assert queued in repository.page(session, limit=10, kinds=[JobKind.QUANTIZE]).jobs


def test_ahead_counts_the_queued_jobs_of_the_same_kind_that_came_before(
    session: Session,
) -> None:
    make_running_job(session, now=NOON)
    make_job(session, now=NOON)
    make_job(session, kind=JobKind.SAMPLE, now=NOON)
    job = make_job(session, now=NOON + SECOND)
    make_job(session, now=NOON + 2 * SECOND)
    assert repository.ahead(session, job) == 1


def test_a_queued_job_is_cancelled_at_once(session: Session) -> None:
    job = make_job(session)
    repository.request_cancel(session, job.id, now=NOON + SECOND)
    session.expire_all()
    assert job.status == JobStatus.CANCELLED
    assert job.finished_at == job.cancel_requested_at == NOON + SECOND
    assert job.version == 2


def test_a_running_job_is_asked_to_stop_and_asking_again_changes_nothing(
    session: Session,
) -> None:
    job, _ = make_running_job(session)
    repository.request_cancel(session, job.id, now=NOON + SECOND)
    version = job.version
    again = repository.request_cancel(session, job.id, now=NOON + 2 * SECOND)
    assert again.status == JobStatus.CANCELLING
    assert again.version == version
    assert again.cancel_requested_at == NOON + SECOND
    assert again.finished_at is None


def test_a_job_that_has_ended_cannot_be_cancelled(session: Session) -> None:
    job, lease = make_running_job(session)
    repository.finish(session, lease, result={}, artifacts={}, now=NOON)
    with pytest.raises(IllegalTransition, match="already succeeded"):
        repository.request_cancel(session, job.id, now=NOON)


def test_artifacts_are_found_by_name_and_by_sha256(session: Session) -> None:
    job, lease = make_running_job(session)
    grid = StoredArtifact(sha256="a" * 64, size_bytes=3, media_type="image/png")
    made = {"grid": grid, "image/0": grid}
    repository.finish(session, lease, result={}, artifacts=made, now=NOON)
    assert repository.artifact(session, "a" * 64).size_bytes == 3
    found = repository.job_artifacts(session, job.id)
    assert {name: item.sha256 for name, item in found.items()} == {
        "grid": "a" * 64,
        "image/0": "a" * 64,
    }


def test_an_unknown_sha256_is_no_artifact(session: Session) -> None:
    with pytest.raises(ArtifactNotFound):
        repository.artifact(session, "b" * 64)


def test_a_cancel_that_meets_a_claim_waits_for_it_and_stops_the_worker(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as session:
        job = make_job(session)
    begun = Event()

    def cancel() -> JobStatus:
        begun.set()
        with sessions.begin() as session:
            return repository.request_cancel(session, job.id, now=NOON).status

    with ThreadPoolExecutor(1) as pool:
        with sessions.begin() as session:
            assert repository.claim(session, job.id, owner="w", now=NOON) is not None
            outcome = pool.submit(cancel)
            begun.wait()
            # Long enough for it to read the row, were it not to wait for the claim.
            Event().wait(0.3)
        assert outcome.result() == JobStatus.CANCELLING

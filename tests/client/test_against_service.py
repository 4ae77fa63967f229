"""The client and the real service over a real socket: both read the same interface."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobs import repository
from jobs.ids import public_id
from jobs.models import JobKind
from tcaq_client import Client, JobFailed, Problem
from tests.client.answers import tar
from tests.client.serving import FILES, Service, connected, finish, serving, submit
from tests.service import ledger


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with serving(tmp_path) as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with connected(service) as opened:
        yield opened


def test_a_submitted_job_reads_back_the_same(client: Client) -> None:
    submitted = client.submit("tiny", weight_bits=4, activation_bits=8)
    read = client.job(submitted.id)
    assert (read.id, read.status, read.model) == (submitted.id, "queued", "tiny")
    assert read.recipe is not None
    assert read.recipe["weight_bits"] == 4
    assert read.created_at == submitted.created_at
    assert read.progress.percent == 0.0


def test_all_pages_are_walked_in_order(client: Client) -> None:
    ids = [submit(client) for _ in range(5)]
    newest_first = [job.id for job in client.jobs(page_size=2)]
    assert newest_first == ids[::-1]
    assert [job.id for job in client.jobs(page_size=2, order="asc")] == ids
    assert list(client.jobs(status="failed")) == []


def test_progress_is_seen_and_a_failure_has_its_reason(
    service: Service, client: Client
) -> None:
    job_id = submit(client)
    lease = ledger.claim(service.sessions, job_id)
    ledger.report(service.sessions, lease, fraction=0.5, now=datetime.now(UTC))
    seen = []

    def fail_next(job: object) -> None:
        seen.append(job)
        if len(seen) == 1:
            error = {
                "code": "diverged",
                "title": "Diverged",
                "detail": "The loss became NaN.",
                "hint": "Lower the learning rate.",
                "retryable": False,
            }
            with service.sessions.begin() as session:
                repository.fail(session, lease, error=error, now=datetime.now(UTC))

    with pytest.raises(JobFailed, match="NaN") as caught:
        client.wait(job_id, fail_next)
    assert caught.value.failure is not None
    assert caught.value.failure.code == "diverged"
    assert caught.value.hint == "Lower the learning rate."
    assert len(seen) == 2


def test_the_middle_of_a_job_has_stage_units_and_percent(
    service: Service, client: Client
) -> None:
    job_id = submit(client)
    lease = ledger.claim(service.sessions, job_id)
    ledger.report(service.sessions, lease, fraction=0.5, now=datetime.now(UTC))
    progress = client.job(job_id).progress
    assert (progress.stage, progress.stage_index, progress.stage_count) == ("par", 5, 8)
    assert (progress.done, progress.total, progress.unit) == (17, 38, "block")
    assert progress.percent == 50.0


def test_a_checkpoint_arrives_whole_and_is_not_served_too_early(
    service: Service, client: Client, tmp_path: Path
) -> None:
    job_id = submit(client)
    folder = tmp_path / "checkpoint"
    with pytest.raises(Problem) as early:
        client.download(job_id, folder)
    assert (early.value.status, early.value.code) == (409, "job_not_ready")
    finish(service, job_id)
    assert client.wait(job_id).status == "succeeded"
    client.download(job_id, folder)
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES


def test_a_download_is_resumed_by_the_real_service(
    service: Service, client: Client, tmp_path: Path
) -> None:
    job_id = submit(client)
    sha256 = finish(service, job_id)
    part = tmp_path / f".checkpoint.{sha256}.part"
    part.write_bytes(tar(FILES)[:100_000])
    arrived: list[int] = []
    client.download(
        job_id, tmp_path / "checkpoint", on_bytes=lambda n, _: arrived.append(n)
    )
    assert arrived[0] > 100_000
    assert arrived[-1] == len(tar(FILES))
    assert not part.exists()


def test_a_sample_and_its_grid_are_fetched(service: Service, client: Client) -> None:
    job_id = submit(client)
    finish(service, job_id)
    worker = threading.Thread(target=draw_next, args=(service,))
    worker.start()
    drawn = client.sample(job_id, n=1)
    worker.join()
    assert (drawn.execution, drawn.kernels) == ("integer", "onednn-int8")
    assert drawn.baseline is None
    assert client.image(drawn.grid) == ledger.GRID


def test_a_png_is_the_grid_itself(service: Service, client: Client) -> None:
    worker = threading.Thread(target=draw_next, args=(service,))
    worker.start()
    png = client.sample_png("tiny")
    worker.join()
    assert png == ledger.GRID


def test_cancelling_ends_the_wait(client: Client) -> None:
    job_id = submit(client)
    assert client.cancel(job_id).status == "cancelled"
    with pytest.raises(JobFailed, match="cancelled"):
        client.wait(job_id)
    with pytest.raises(Problem) as again:
        client.cancel(job_id)
    assert again.value.status == 409


def test_models_and_recipes_are_understood(client: Client) -> None:
    pickled, tiny = client.models()
    assert (pickled.name, pickled.is_usable) == ("pickled", False)
    assert "pickle" in pickled.reason
    assert (tiny.name, tiny.is_usable, tiny.sample_size) == ("tiny", True, 16)
    presets = {preset.name: preset.passes for preset in client.recipes()}
    assert presets["rtn"] == ("fit_ranges",)
    assert presets["tcaq"] == ("tcr", "fit_ranges", "daq", "par")


def test_a_refused_field_is_named_with_what_it_may_be(client: Client) -> None:
    with pytest.raises(Problem) as caught:
        client.submit("tiny", weight_bits=9, activation_bits=8)
    (error,) = caught.value.errors
    assert error.where == "/weight_bits"
    assert error.allowed == [2, 3, 4, 5, 6, 7, 8]
    assert caught.value.request_id


def draw_next(service: Service) -> None:
    """Wait for a sample to be queued and end it, as a worker does."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with service.sessions.begin() as session:
            queued = repository.page(session, kinds=[JobKind.SAMPLE], limit=1).jobs
        if queued:
            sample_id = public_id(JobKind.SAMPLE, queued[0].id)
            ledger.succeed_sample(service.sessions, service.store, sample_id)
            return
        time.sleep(0.02)

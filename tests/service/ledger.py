"""The worker's side of a test: rows moved along as a worker moves them."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session, sessionmaker

from jobs import repository
from jobs.artifacts import ArtifactStore, StoredArtifact
from jobs.ids import parse_id
from jobs.models import JobKind
from jobs.repository import Lease
from jobs.settings import Settings
from jobs.stages import Progress

Sessions = sessionmaker[Session]

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
CHECKPOINT = bytes(range(256)) * 40
REPORT = b'{"fit_ranges":null,"layers":{"passes":[]}}\n'
PICTURE = b"\x89PNG\r\n\x1a\n" + b"layers by timesteps"
ONNX = b"\x08\x0a an ONNX file" * 20
BENCHMARK = {"speedup": {"over_float32": 5.5, "over_bfloat16": 1.9}}
DETAILS = {
    "kernels": "onednn-int8",
    "integer_layers": 12,
    "simulated_layers": {"conv_in": "its input is not quantized"},
    "note": None,
}
GRID = b"\x89PNG\r\n\x1a\n" + b"grid of images"


def claim(sessions: Sessions, public_id: str, *, now: datetime | None = None) -> Lease:
    """Claim a queued job."""
    with sessions.begin() as session:
        job = repository.claim(
            session, parse_id(public_id), owner="worker-1", now=now or _now()
        )
        assert job is not None
        return repository.lease_of(job)


def report(sessions: Sessions, lease: Lease, *, fraction: float, now: datetime) -> None:
    """Send a heartbeat from the middle of the stage ``par``."""
    progress = Progress(
        stage="par",
        stage_index=5,
        stage_count=8,
        done=17,
        total=38,
        unit="block",
        fraction=fraction,
    )
    with sessions.begin() as session:
        repository.heartbeat(session, lease, progress=progress, now=now)


def succeed(
    sessions: Sessions,
    store: ArtifactStore,
    public_id: str,
    *,
    has_onnx: bool = False,
    more: Mapping[str, Any] | None = None,
) -> str:
    """Bring a quantization to ``succeeded`` and return its checkpoint's SHA-256.

    `more` is what its result has besides.
    """
    lease = claim(sessions, public_id)
    stored = store.put_bytes(CHECKPOINT, media_type="application/x-tar")
    report = store.put_bytes(REPORT, media_type="application/json")
    picture = store.put_bytes(PICTURE, media_type="image/png")
    made = {"checkpoint": stored, "report": report, "report.png": picture}
    exports = {}
    if has_onnx:
        onnx = store.put_bytes(ONNX, media_type="application/octet-stream")
        made["model.onnx"] = onnx
        exports = {"onnx": {"sha256": onnx.sha256, "size_bytes": onnx.size_bytes}}
    result = {
        "checkpoint": {"sha256": stored.sha256, "size_bytes": stored.size_bytes},
        "report": {"sha256": report.sha256, "picture": {"sha256": picture.sha256}},
        "exports": exports,
        "benchmark": BENCHMARK,
        "compression_ratio": 6.5,
        "verified": {"probe_sha256": "0" * 64, "max_abs_diff": 0.0, "bit_equal": True},
        **(more or {}),
    }
    with sessions.begin() as session:
        repository.finish(
            session,
            lease,
            result=result,
            artifacts=made,
            now=_now() + timedelta(seconds=1),
        )
    return stored.sha256


def succeed_sample(sessions: Sessions, store: ArtifactStore, public_id: str) -> str:
    """Bring a sample to ``succeeded`` and return its grid's SHA-256."""
    lease = claim(sessions, public_id)
    grid = store.put_bytes(GRID, media_type="image/png")
    image = store.put_bytes(GRID + b"1", media_type="image/png")
    size = {"width": 8, "height": 8}
    result = {
        "images": [{"seed": 0, "sha256": image.sha256, **size}],
        "grid": {"sha256": grid.sha256, **size},
        "baseline": None,
        "execution": "integer",
        "execution_details": DETAILS,
        "metrics": None,
        "seconds_per_image": 0.5,
    }
    with sessions.begin() as session:
        repository.finish(
            session,
            lease,
            result=result,
            artifacts={"grid": grid, "image/0": image},
            now=_now(),
        )
    return grid.sha256


def end(
    sessions: Sessions,
    public_id: str,
    result: Mapping[str, Any],
    made: Mapping[str, StoredArtifact] | None = None,
) -> None:
    """Bring a job of any kind to ``succeeded``."""
    lease = claim(sessions, public_id)
    with sessions.begin() as session:
        repository.finish(
            session, lease, result=result, artifacts=made or {}, now=_now()
        )


def fail(sessions: Sessions, public_id: str, error: Mapping[str, Any]) -> None:
    """Bring a job to ``failed``."""
    lease = claim(sessions, public_id)
    with sessions.begin() as session:
        repository.fail(session, lease, error=error, now=_now())


def sample_ids(sessions: Sessions) -> list[str]:
    """Return the public ids of all samples."""
    with sessions.begin() as session:
        page = repository.page(session, kinds=[JobKind.SAMPLE], limit=100)
    return [f"sample_{job.id.hex}" for job in page.jobs]


def messages(settings: Settings) -> list[Path]:
    """Return the message files that wait in the broker's folder."""
    return sorted((settings.broker_directory / "messages").glob("*.msg"))


def _now() -> datetime:
    return datetime.now(UTC)

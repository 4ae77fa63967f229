"""One attempt at a shard: make it under a heartbeat, store its files, record them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Final, TypeVar

import structlog
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from jobs.artifacts import StoredArtifact
from jobs.errors import LeaseLost
from jobs.models import Json
from jobs.shards import ShardLease, finish_shard, release_shard
from tcaq_core.errors import Interrupted
from worker.clock import utc_now
from worker.context import Context
from worker.heart import StopReason
from worker.shard_heart import ShardHeart

# safetensors files have no registered media type.
FEATURES: Final = "application/octet-stream"
# A type of its own: a checkpoint is a tar, too, and one must not pass for the other.
IMAGES: Final = "application/vnd.tcaq.images+tar"
RETRY_SECONDS: Final = 2.0

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Made:
    """What came of a shard's work; its files are deleted once they are stored."""

    features: bytes | Path
    images: Path | None
    """A tar with the images; None: they are not kept."""
    seconds: float


Tick = Callable[[], None]
"""To be called often while working; raises `Interrupted` when the work must stop."""
Make = Callable[[Json, int, Tick], Made]
"""Makes one shard of (the set's request, its number, tick)."""


def attempt(
    request: Json, lease: ShardLease, context: Context, make: Make, *, tick: Tick
) -> None:
    """Make, store and record a claimed shard; give it back if that comes to nothing.

    Only an error counts against the shard, not a request to stop.

    Raises:
        LeaseLost: another worker has the shard by now.
        Interrupted: `tick` asks to stop, or no job wants the set any more.
        SystemExit: this process was told to exit.
        Exception: whatever `make` raises.
    """
    heart = ShardHeart(
        context.sessions, lease, heartbeat_seconds=context.settings.heartbeat_seconds
    )

    def check() -> None:
        heart.check()
        tick()

    try:
        with heart:
            made = make(request, lease.number, check)
            features, images = _store(made, context)
        _finish(lease, context, features, images, made.seconds)
    except BaseException as error:
        _give_back(lease, context, failed=_is_failure(error))
        is_lost = heart.stop_reason is StopReason.LEASE_LOST
        if is_lost and isinstance(error, Interrupted):
            raise LeaseLost(
                f"Shard {lease.number} was taken over.", hint="Nothing is left to do."
            ) from error
        raise
    _logger.info("made a shard", set=lease.digest, shard=lease.number)


def persist(context: Context, act: Callable[[Session], T]) -> T:
    """Run a transaction, again and again while the database is away for a moment.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: it is away for longer than a lease lasts.
    """
    deadline = monotonic() + context.settings.lease_seconds
    while True:
        try:
            with context.sessions.begin() as session:
                return act(session)
        except (OperationalError, InterfaceError, PoolTimeout):
            if monotonic() >= deadline:
                raise
            _logger.warning("the database does not answer; trying again")
            sleep(RETRY_SECONDS)


def _store(
    made: Made, context: Context
) -> tuple[StoredArtifact, StoredArtifact | None]:
    images = None
    try:
        if isinstance(made.features, Path):
            features = context.store.put(made.features, media_type=FEATURES)
        else:
            features = context.store.put_bytes(made.features, media_type=FEATURES)
        if made.images is not None:
            images = context.store.put(made.images, media_type=IMAGES)
    finally:
        for path in (made.features, made.images):
            if isinstance(path, Path):
                path.unlink(missing_ok=True)
    return features, images


def _finish(
    lease: ShardLease,
    context: Context,
    features: StoredArtifact,
    images: StoredArtifact | None,
    seconds: float,
) -> None:
    persist(
        context,
        lambda session: finish_shard(
            session,
            lease,
            stored=features,
            images=images,
            seconds=seconds,
            now=utc_now(),
        ),
    )


def _give_back(lease: ShardLease, context: Context, *, failed: bool) -> None:
    try:
        persist(
            context,
            lambda session: release_shard(session, lease, now=utc_now(), failed=failed),
        )
    except (LeaseLost, SQLAlchemyError) as error:
        # It is another's, or will be once the lease has run out.
        _logger.warning(
            "the shard is not given back",
            set=lease.digest,
            shard=lease.number,
            error=type(error).__name__,
        )


def _is_failure(error: BaseException) -> bool:
    return isinstance(error, Exception) and not isinstance(error, Interrupted)

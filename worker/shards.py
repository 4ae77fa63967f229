"""Shards worked by whoever is free: by helpers, and by the job that needs them.

The job that needs a set works its shards itself and calls for help with the others. It
needs no helper: one that never comes, dies or fails costs time and nothing else.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from time import monotonic, sleep
from typing import Final, Literal

import structlog
from sqlalchemy.orm import Session

from jobs import shards as ledger
from jobs.artifacts import ArtifactStore
from jobs.errors import LeaseLost
from jobs.models import Json
from jobs.queue import ring_shards, waiting_calls
from jobs.shards import ShardLease, ShardResult, Tally
from tcaq_core.errors import Interrupted
from tcaq_core.fingerprint import environment_digest
from worker.clock import utc_now
from worker.context import Context
from worker.shard_attempt import IMAGES, Made, Make, Tick, attempt, persist

__all__ = ["IMAGES", "Made", "Make", "Tick", "complete_set", "help_once"]

# How often one looks whether the others are done.
WAIT_SECONDS: Final = 0.5
# A worker that cannot help would otherwise hear every call before the others do.
PASSED_ON: Final = "passed on"
PASS_ON_SECONDS: Final = 5.0
# What failed so often on others is left to the job itself, which then says why.
HELPERS_ATTEMPTS: Final = 2
# Enough for a million images in shards of the default size.
MOST_DOORBELLS: Final = 4_000
# The interval between two calls for help doubles up to this many times the first.
SLOWEST: Final = 15

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def help_once(digest: str, context: Context, make: Make) -> bool:
    """Work one shard of a set; return whether it was finished.

    Return at once if the set is not there, not wanted, or has no shard to claim. Where
    this worker's bits would differ, or a shard failed on it before, the call for help
    is passed on to others. What goes wrong is logged: the job that needs the set will
    meet it and tell its caller.

    Raises:
        SystemExit: this process was told to exit; the shard is given back.
    """
    own = environment_digest(context.device)
    try:
        with context.sessions.begin() as session:
            claimed = _claim_as_helper(session, digest, context, environment=own)
        if claimed == PASSED_ON:
            # Long enough for another worker to take the message.
            sleep(PASS_ON_SECONDS)
        if claimed is None or claimed == PASSED_ON:
            return False
        request, lease = claimed
        attempt(request, lease, context, make, tick=lambda: None)
    except (Interrupted, LeaseLost) as error:
        _logger.info("stopped helping", set=digest, reason=error.detail)
        return False
    except Exception:
        _logger.exception("a shard failed", set=digest)
        return False
    return True


def complete_set(
    digest: str,
    context: Context,
    make: Make,
    *,
    tick: Callable[[int, int], None],
) -> tuple[ShardResult, ...]:
    """Have all shards of an opened set made; return them by number.

    `tick` is called often with (shards done, all shards).

    Raises:
        ValueError: the set was not opened (`jobs.shards.open_set`).
        Interrupted: `tick` asks to stop, or no job wants the set any more.
        SystemExit: this process was told to exit; the shard at hand is given back.
        Exception: whatever `make` raises.
    """
    request = persist(context, lambda session: ledger.set_request(session, digest))
    if request is None:
        raise ValueError(f"there is no shard set {digest}: open it first")
    _forget_lost_files(digest, context)
    bell = Bell(digest, context)
    while True:
        count = persist(context, bell.ring_if_due)
        tick(count.done, count.num_shards)
        if count.done == count.num_shards:
            return persist(context, lambda session: ledger.results(session, digest))
        lease = persist(context, lambda session: _claim(session, digest, context))
        if lease is None:
            sleep(WAIT_SECONDS)
            continue
        ours = partial(tick, count.done, count.num_shards)
        try:
            attempt(request, lease, context, make, tick=ours)
        except LeaseLost as error:
            # This process slept for longer than a lease lasts: another has it, or had.
            _logger.warning("a shard was taken over", set=digest, reason=error.detail)


class Bell:
    """Calls for help with a set, and again ever more rarely while nobody comes."""

    def __init__(self, digest: str, context: Context) -> None:
        self._digest = digest
        self._context = context
        self._first = context.settings.requeue_after_seconds
        self._interval = self._first
        self._due = monotonic()

    def ring_if_due(self, session: Session) -> Tally:
        """Ring for the shards that are free, if it is time; return the count.

        Call it when this process holds no shard.
        """
        stale = _stale_before(utc_now(), self._context)
        count = ledger.tally(session, self._digest, stale_before=stale)
        others = min(count.waiting - 1, MOST_DOORBELLS)
        # Where somebody helps, the doorbells of the others have been heard or wait.
        if others > 0 and not count.held and monotonic() >= self._due:
            # What nobody has heard is not said twice: where there are no helpers, the
            # broker's folder would otherwise grow with every call.
            missing = others - waiting_calls(self._context.celery)
            ring_shards(session, self._digest, missing, self._context.celery)
            self._due = monotonic() + self._interval
            self._interval = min(2 * self._interval, SLOWEST * self._first)
        return count


def _claim_as_helper(
    session: Session, digest: str, context: Context, *, environment: str
) -> tuple[Json, ShardLease] | Literal["passed on"] | None:
    request = ledger.set_request(session, digest)
    if request is None or not ledger.is_wanted(session, digest):
        _logger.info("nobody needs that set any more", set=digest)
        return None
    reason = None
    if request.get("environment_digest") != environment:
        reason = (
            "other versions, processor, threads or device than where the job was begun "
            "would give other bits"
        )
    elif ledger.has_failed(session, digest, owner=context.owner):
        reason = "a shard of it failed here before"
    if reason is None:
        lease = _claim(session, digest, context, max_attempts=HELPERS_ATTEMPTS)
        return None if lease is None else (request, lease)
    _logger.warning("not helping", set=digest, reason=reason, environment=environment)
    if not ledger.tally(session, digest).waiting:
        return None
    ring_shards(session, digest, 1, context.celery)
    return PASSED_ON


def _claim(
    session: Session, digest: str, context: Context, max_attempts: int | None = None
) -> ShardLease | None:
    now = utc_now()
    return ledger.claim_shard(
        session,
        digest,
        owner=context.owner,
        now=now,
        stale_before=_stale_before(now, context),
        max_attempts=max_attempts,
    )


def _stale_before(now: datetime, context: Context) -> datetime:
    return now - timedelta(seconds=context.settings.lease_seconds)


def _forget_lost_files(digest: str, context: Context) -> None:
    """Have those made again whose files are gone or cut short."""
    for done in persist(context, lambda session: ledger.results(session, digest)):
        if _is_stored(context.store, done.sha256, done.size_bytes) and (
            done.images_sha256 is None
            or _is_stored(context.store, done.images_sha256, done.images_bytes)
        ):
            continue
        _logger.warning("a shard's file is lost", set=digest, shard=done.number)
        persist(context, partial(_forget, digest=digest, done=done))


def _forget(session: Session, *, digest: str, done: ShardResult) -> None:
    ledger.forget_result(session, digest, number=done.number, sha256=done.sha256)


def _is_stored(store: ArtifactStore, sha256: str, size_bytes: int | None) -> bool:
    path = store.path(sha256)
    # A store that is not on this machine's disk is asked for no more than the name.
    return store.exists(sha256) if path is None else path.stat().st_size == size_bytes

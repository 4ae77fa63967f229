"""The queue: a doorbell. A message names a job or a shard set and says nothing else."""

import logging
from dataclasses import dataclass
from typing import Any, Final

from celery import Celery
from kombu.entity import Queue
from kombu.exceptions import ChannelError, OperationalError
from sqlalchemy import event
from sqlalchemy.orm import Session

from jobs.errors import QueueUnavailable
from jobs.models import Job, JobKind
from jobs.settings import Settings

MAINTENANCE_QUEUE: Final = "maintenance"
SHARDS_QUEUE: Final = "shards"
QUEUES: Final = (*(kind.value for kind in JobKind), SHARDS_QUEUE, MAINTENANCE_QUEUE)
REAP_TASK: Final = "tcaq.reap"
SHARD_TASK: Final = "tcaq.shard"
# A call for help that nobody heard for so long is repeated if it still matters.
SHARD_EXPIRES_SECONDS: Final = 3600
# Ringing happens inside a request: it tries twice and leaves the rest to the reaper.
RETRY: Final = {
    "max_retries": 1,
    "interval_start": 0,
    "interval_step": 0.2,
    "interval_max": 0.2,
}

_PENDING: Final = "tcaq.doorbells"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Doorbell:
    """One message, before it is sent."""

    task: str
    queue: str
    name: str
    """A job's id or a shard set's digest."""
    without: str
    """What happens if it is lost, for the log."""
    expires: float | None = None
    """Seconds after which nobody needs it."""


def task_name(kind: JobKind) -> str:
    """Return the name of the Celery task that works on jobs of that kind."""
    return f"tcaq.{kind.value}"


def make_celery(settings: Settings) -> Celery:
    """Return the Celery application; the filesystem broker's folders are created."""
    app = Celery("tcaq", broker=settings.broker, set_as_current=False)
    app.conf.update(
        # The lease in the job's row guarantees the work, not the broker: with late
        # acknowledgement, Redis would start a second copy of every job that takes
        # longer than its visibility timeout.
        task_acks_late=False,
        task_ignore_result=True,
        task_track_started=True,
        task_serializer="json",
        accept_content=["json"],
        # The default exchange needs no routing table; kombu's file of it is written
        # by every process that starts, without care for the others.
        task_queues=[_direct(name) for name in QUEUES],
        task_default_queue=MAINTENANCE_QUEUE,
        task_default_exchange="",
        task_default_routing_key=MAINTENANCE_QUEUE,
        task_create_missing_queues=False,
        task_publish_retry_policy=RETRY,
        worker_prefetch_multiplier=1,
        worker_concurrency=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
        broker_transport_options=RETRY,
        timezone="UTC",
        # Everything that is scheduled repeats: nothing to remember in a file.
        beat_scheduler="celery.beat:Scheduler",
        beat_schedule={"reap": _reap_entry(settings)},
    )
    if settings.broker.startswith("filesystem:"):
        app.conf.update(_filesystem(settings))
    if settings.broker.startswith(("redis:", "rediss:")):
        # A message that waits inside a busy worker is lost to the idle one.
        app.conf.worker_disable_prefetch = True
    return app


def ring(session: Session, job: Job, celery: Celery) -> None:
    """Ring the job's doorbell once the session has committed; never on rollback.

    A broker that is down is logged and otherwise ignored: the row is committed, and
    the reaper rings again.
    """
    bell = Doorbell(
        task=task_name(job.kind),
        queue=job.kind.value,
        name=str(job.id),
        without="the reaper will ring again",
    )
    _enqueue(session, celery, bell)


def waiting_calls(celery: Celery) -> int:
    """Return how many calls for help nobody has heard yet, for whatever set.

    0 where the broker does not answer.
    """
    try:
        with celery.connection_for_write(connect_timeout=2) as connection:
            declared = connection.default_channel.queue_declare(SHARDS_QUEUE)
    except (OperationalError, ChannelError, OSError):
        return 0
    return int(declared.message_count)


def ring_shards(session: Session, digest: str, count: int, celery: Celery) -> None:
    """Call for help with `count` shards of a set, once the session has committed.

    One message is one shard's worth of help. A broker that is down is logged and
    otherwise ignored: the job that needs the set works its shards itself.
    """
    bell = Doorbell(
        task=SHARD_TASK,
        queue=SHARDS_QUEUE,
        name=digest,
        without="its job works them alone",
        expires=SHARD_EXPIRES_SECONDS,
    )
    for _ in range(count):
        _enqueue(session, celery, bell)


def ping(celery: Celery) -> None:
    """Return if the broker answers.

    Raises:
        QueueUnavailable: it does not.
    """
    try:
        with celery.connection_for_write(connect_timeout=2) as connection:
            connection.default_channel.queue_declare(MAINTENANCE_QUEUE)
    except (OperationalError, ChannelError, OSError) as error:
        raise QueueUnavailable(
            "The message broker does not answer.",
            hint="Jobs are accepted all the same; they start when it is back.",
        ) from error


def _enqueue(session: Session, celery: Celery, bell: Doorbell) -> None:
    if _PENDING not in session.info:
        session.info[_PENDING] = []
        event.listen(session, "after_commit", _send_pending)
        event.listen(session, "after_rollback", _forget_pending)
    session.info[_PENDING].append((celery, bell))


def _send_pending(session: Session) -> None:
    # SQLAlchemy reports a released savepoint as a commit, too.
    if session.in_nested_transaction():
        return
    pending, session.info[_PENDING] = session.info[_PENDING], []
    failed: set[Doorbell] = set()
    for celery, bell in pending:
        # Who is down for the first of many equal messages is not asked again.
        if bell not in failed and not _send(celery, bell):
            failed.add(bell)


def _forget_pending(session: Session) -> None:
    session.info[_PENDING] = []


def _send(celery: Celery, bell: Doorbell) -> bool:
    try:
        celery.send_task(
            bell.task, args=[bell.name], queue=bell.queue, expires=bell.expires
        )
    except (OperationalError, ChannelError, OSError) as error:
        # Only the type: a message may quote the broker's URL.
        _logger.warning(
            "%s %s: the broker does not answer (%s); %s",
            bell.queue,
            bell.name,
            type(error).__name__,
            bell.without,
        )
        return False
    return True


def _direct(name: str) -> Queue:
    return Queue(name, exchange="", routing_key=name)  # type: ignore[no-untyped-call] # kombu's __init__


def _reap_entry(settings: Settings) -> dict[str, Any]:
    return {
        "task": REAP_TASK,
        "schedule": settings.reap_seconds,
        # Nobody needs the reaping that was due while no worker was there.
        "options": {"queue": MAINTENANCE_QUEUE, "expires": settings.reap_seconds},
    }


def _filesystem(settings: Settings) -> dict[str, Any]:
    folders = {
        name: settings.broker_directory / name
        for name in ("messages", "processed", "control")
    }
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    return {
        "broker_transport": "jobs.mailbox:Transport",
        "broker_transport_options": {
            **RETRY,
            "data_folder_in": str(folders["messages"]),
            "data_folder_out": str(folders["messages"]),
            "processed_folder": str(folders["processed"]),
            "control_folder": folders["control"],
            "polling_interval": 0.25,
        },
    }

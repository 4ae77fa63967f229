"""One attempt at a job: claim, work under a heartbeat, end it; never both halves."""

from collections.abc import Sequence
from time import monotonic, sleep
from typing import Final, assert_never
from uuid import UUID

import structlog
import torch
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from jobs import repository
from jobs.errors import JobError, LeaseLost
from jobs.failures import failure
from jobs.models import Job, JobKind
from jobs.queue import ring
from jobs.repository import lease_of
from jobs.stages import Stage, plan, plan_evaluation, plan_sample
from tcaq_core.errors import Interrupted, OutOfMemory, TCAQError
from tcaq_core.recipe import Recipe
from worker.clock import utc_now
from worker.context import Context
from worker.evaluate import EvaluateRequest, evaluate
from worker.exports import QuantizeRequest
from worker.guarded import quantize
from worker.heart import Heart, StopReason
from worker.journals import AttemptJournal
from worker.memory import return_memory
from worker.outcome import Failed, Outcome, Progress, Stopped, Succeeded
from worker.sample import SampleRequest, sample
from worker.sweep_job import sweep
from worker.sweep_points import SweepRequest, sweep_stages

RETRY_SECONDS: Final = 2.0

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def run_job(job_id: UUID, context: Context) -> None:
    """Claim the job and work on it; return at once if it is not there to be claimed.

    Whatever happens to the work is recorded on the row. When this process is told to
    exit, the job goes back to the queue first.

    Raises:
        SystemExit: this process was told to exit.
    """
    log = _logger.bind(job_id=str(job_id))
    with context.sessions.begin() as session:
        job = repository.claim(session, job_id, owner=context.owner, now=utc_now())
    if job is None:
        log.info("nothing to claim")
        return
    log = log.bind(kind=job.kind.value, attempt=job.attempt)
    log.info("claimed")
    heart = Heart(
        context.sessions,
        lease_of(job),
        heartbeat_seconds=context.settings.heartbeat_seconds,
    )
    journal = AttemptJournal(context.settings, heart.resumed)
    try:
        with heart:
            outcome = _work(job, context, heart, journal, log)
            return_memory(context.device)
    except SystemExit:
        _settle(job, context, heart, Stopped(gives_back=True), log)
        raise
    if heart.stop_reason == StopReason.LEASE_LOST:
        log.warning("the job is no longer ours")
        return
    if _settle(job, context, heart, outcome, log):
        journal.close(outcome)


def _stages_of(job: Job) -> Sequence[Stage]:
    match job.kind:
        case JobKind.QUANTIZE:
            order = QuantizeRequest.model_validate(job.request)
            return plan(
                Recipe.model_validate(job.recipe),
                exports=order.exports,
                evaluation=order.plan,
                guards=order.guards,
            )
        case JobKind.SAMPLE:
            request = SampleRequest.model_validate(job.request)
            return plan_sample(
                images=request.n,
                steps=request.sampler.steps,
                compare=request.compare_to is not None,
            )
        case JobKind.EVALUATE:
            return plan_evaluation(EvaluateRequest.model_validate(job.request).plan)
        case JobKind.SWEEP:
            return sweep_stages(SweepRequest.model_validate(job.request))
        case _:
            assert_never(job.kind)


def _work(
    job: Job,
    context: Context,
    heart: Heart,
    journal: AttemptJournal,
    log: structlog.stdlib.BoundLogger,
) -> Outcome:
    try:
        heart.expect(_stages_of(job))
        return _outcome(job, context, heart.progress, journal)
    except (Interrupted, LeaseLost):
        return Stopped(gives_back=False)
    except (TCAQError, JobError) as error:
        log.warning("failed", code=error.code, detail=error.detail)
        return _failed(error)
    except Exception as error:
        if _is_out_of_memory(error):
            log.exception("out of memory")
            return _failed(
                OutOfMemory(
                    "The device had no room for the next step.",
                    hint="Lower batch_size, calibration.num_samples or n.",
                )
            )
        # The traceback stays in the log: it may name paths and hosts.
        log.exception("internal error")
        return Failed(
            failure(
                "internal",
                f"An unexpected {type(error).__name__} stopped the job.",
                hint="The worker's log has the traceback under this job's id.",
                retryable=False,
            )
        )


def _outcome(
    job: Job, context: Context, progress: Progress, journal: AttemptJournal
) -> Succeeded:
    match job.kind:
        case JobKind.QUANTIZE:
            return quantize(job, context, progress, journal)
        case JobKind.SAMPLE:
            return sample(job, context, progress)
        case JobKind.EVALUATE:
            return evaluate(job, context, progress)
        case JobKind.SWEEP:
            return sweep(job, context, progress, journal)
        case _:
            assert_never(job.kind)


def _failed(error: TCAQError | JobError) -> Failed:
    return Failed(
        failure(error.code, error.detail, hint=error.hint, retryable=error.retryable)
    )


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # torch's CPU allocator has no type of its own for it.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _settle(
    job: Job,
    context: Context,
    heart: Heart,
    outcome: Outcome,
    log: structlog.stdlib.BoundLogger,
) -> bool:
    """Put the outcome on the row; return False if the row is another's by now."""
    deadline = monotonic() + context.settings.lease_seconds
    while True:
        try:
            with context.sessions.begin() as session:
                _record(session, job, context, heart, outcome)
        except LeaseLost:
            log.warning("the job is no longer ours")
            return False
        except (OperationalError, InterfaceError, PoolTimeout):
            # Hours of work are not thrown away for a database that restarts.
            if monotonic() >= deadline:
                raise
            log.warning("the database does not answer; trying again")
            sleep(RETRY_SECONDS)
            continue
        log.info("ended", outcome=type(outcome).__name__)
        return True


def _record(
    session: Session, job: Job, context: Context, heart: Heart, outcome: Outcome
) -> None:
    lease, now = lease_of(job), utc_now()
    is_cancelling = heart.flush(session)
    match outcome:
        case Succeeded(result, artifacts):
            repository.finish(
                session, lease, result=result, artifacts=artifacts, now=now
            )
        case Failed(error):
            repository.fail(session, lease, error=error, now=now)
        case Stopped(gives_back) if gives_back and not is_cancelling:
            released = repository.release(session, lease, now=now)
            ring(session, released, context.celery)
        case Stopped():
            repository.cancelled(session, lease, now=now)
        case _:
            assert_never(outcome)

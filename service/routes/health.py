"""Is the process alive, and can it do its work?"""

from collections.abc import Callable
from typing import Final, Literal

from fastapi import APIRouter
from sqlalchemy.exc import SQLAlchemyError

from jobs import repository
from jobs.errors import JobError
from jobs.queue import ping
from service.deps import Resources, ResourcesDep
from service.errors import NotServing
from service.openapi import problem_responses
from service.schemas.catalog import Alive, Ready
from service.schemas.problem import FieldError

router = APIRouter(tags=["health"])


@router.get("/healthz")
def read_health() -> Alive:
    """Say that the process answers; nothing else is looked at."""
    return Alive()


@router.get(
    "/readyz",
    responses=problem_responses("not_serving", instance="/readyz"),
)
def read_readiness(resources: ResourcesDep) -> Ready:
    """Say that database, broker and store answer, or which of them does not."""
    failed = {
        name: reason
        for name, check in _CHECKS.items()
        if (reason := _reason(check, resources)) is not None
    }
    if failed:
        raise NotServing(
            f"Not ready: {', '.join(failed)}.",
            hint="Start what does not answer, and migrate the database.",
            errors=[
                FieldError(parameter=name, code="not_answering", detail=reason)
                for name, reason in failed.items()
            ],
        )
    ok: Literal["ok"] = "ok"
    return Ready(checks=dict.fromkeys(_CHECKS, ok))


def _reason(check: Callable[[Resources], None], resources: Resources) -> str | None:
    try:
        check(resources)
    except JobError as error:
        return error.detail
    except (SQLAlchemyError, OSError) as error:
        # Only the type: messages of drivers quote addresses and accounts.
        return type(error).__name__
    return None


def _check_database(resources: Resources) -> None:
    # The table is read, too: a database that is not migrated is not ready.
    with resources.sessions.begin() as session:
        repository.page(session, limit=1)


def _check_broker(resources: Resources) -> None:
    ping(resources.celery)


def _check_store(resources: Resources) -> None:
    # Written and found again: a folder that is full or not mounted is not ready. It
    # is the same content each time, so at most one empty file is kept.
    stored = resources.store.put_bytes(b"", media_type="application/octet-stream")
    resources.store.open(stored.sha256).close()


_CHECKS: Final[dict[str, Callable[[Resources], None]]] = {
    "database": _check_database,
    "broker": _check_broker,
    "store": _check_store,
}

"""What routes are given: settings, sessions, store and queue of their application."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from celery import Celery
from fastapi import Depends, Request
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import ArtifactStore
from jobs.settings import Settings


@dataclass(frozen=True)
class Resources:
    """Everything the composition root built."""

    settings: Settings
    sessions: sessionmaker[Session]
    store: ArtifactStore
    celery: Celery


def get_resources(request: Request) -> Resources:
    """Return the resources of the application that answers the request."""
    resources: Resources = request.app.state.resources
    return resources


ResourcesDep = Annotated[Resources, Depends(get_resources)]


def open_session(resources: ResourcesDep) -> Iterator[Session]:
    """Yield a session in a transaction: one request, one transaction."""
    with resources.sessions.begin() as session:
        yield session


def get_settings(resources: ResourcesDep) -> Settings:
    """Return the application's settings."""
    return resources.settings


def get_store(resources: ResourcesDep) -> ArtifactStore:
    """Return the artifact store."""
    return resources.store


def get_celery(resources: ResourcesDep) -> Celery:
    """Return the queue."""
    return resources.celery


def utc_now() -> datetime:
    """Return the present moment."""
    return datetime.now(UTC)


# Scope "function": the commit comes before the response, so that a commit that fails
# is answered with an error instead of a 202 that was a lie.
SessionDep = Annotated[Session, Depends(open_session, scope="function")]
SettingsDep = Annotated[Settings, Depends(get_settings)]
StoreDep = Annotated[ArtifactStore, Depends(get_store)]
CeleryDep = Annotated[Celery, Depends(get_celery)]
NowDep = Annotated[datetime, Depends(utc_now)]

"""The composition root of the HTTP process.

``uvicorn --factory service.app:create_app`` reads the environment (TCAQ_…).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from sqlalchemy import Engine

from jobs.artifacts import make_store
from jobs.database import make_sessions
from jobs.queue import make_celery
from jobs.settings import Settings
from service import error_handlers, openapi
from service.body_limit import BodyLimitMiddleware
from service.deps import Resources
from service.openapi import problem_responses
from service.request_ids import RequestIdMiddleware
from service.routes import artifacts, catalog, health, jobs, samples


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the application; settings come from the environment if not given."""
    settings = settings or Settings()
    app = FastAPI(
        title="tcaq",
        version=version("tcaq"),
        summary="Quantize diffusion models: post a job, poll it, download, sample.",
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.resources = Resources(
        settings=settings,
        sessions=make_sessions(settings),
        store=make_store(settings),
        celery=make_celery(settings),
    )
    # The last one added is the outermost: a refused body has a request id, too.
    app.add_middleware(BodyLimitMiddleware, limit_bytes=settings.max_body_bytes)
    app.add_middleware(RequestIdMiddleware)
    common = problem_responses("internal", "not_serving")
    for room in (jobs, samples, artifacts, catalog, health):
        app.include_router(room.router, responses=common)
    error_handlers.install(app)
    openapi.install(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    resources: Resources = app.state.resources
    resources.celery.close()
    engine = resources.sessions.kw["bind"]
    assert isinstance(engine, Engine)  # noqa: S101 - make_sessions binds one
    engine.dispose()

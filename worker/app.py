"""The worker's composition root: ``celery -A worker.app worker -Q quantize``.

The parent process imports no torch: CUDA cannot survive a fork, and only the child
that works needs the memory.
"""

from jobs.queue import make_celery
from jobs.settings import Settings
from worker.logs import configure_logging
from worker.tasks import register

configure_logging()
settings = Settings()
app = make_celery(settings)
register(app, settings)

"""A helper as a process of its own: ``helper_process.py DIGEST [forever]``.

It says ``began N`` before each shard, works at it for a while, or forever, and ends
when there is nothing left to claim.
"""

import sys
from time import sleep

from jobs.models import Json
from jobs.queue import make_celery
from jobs.settings import Settings
from worker.context import make_context
from worker.shards import Made, Tick, help_once

TICKS = 20


def make(request: Json, number: int, tick: Tick) -> Made:
    """Return bytes that depend on the request and the number and on nothing else."""
    for _ in range(TICKS):
        tick()
        sleep(request["seconds"] / TICKS)
    return Made(f"{request['seed']}:{number}".encode() * 100, None, 0.0)


def said(request: Json, number: int, tick: Tick) -> Made:
    """Make a shard, having said so."""
    sys.stdout.write(f"began {number}\n")
    sys.stdout.flush()
    while "forever" in sys.argv:
        tick()
        sleep(0.01)
    return make(request, number, tick)


if __name__ == "__main__":
    settings = Settings()
    context = make_context(settings, make_celery(settings))
    while help_once(sys.argv[1], context, said):
        pass

"""Look at jobs again and again: page after page, or until one has ended."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final
from urllib.parse import quote

from tcaq_client.errors import JobFailed
from tcaq_client.exchange import Exchange, parsed, retry_after
from tcaq_client.results import Job, Page

POLL_SECONDS: Final = 2.0
"""Pause between two looks at a job when the service names none."""


def walk(exchange: Exchange, parameters: Mapping[str, str | int]) -> Iterator[Job]:
    """Yield the jobs of a listing, fetching page after page as they are consumed."""
    params = dict(parameters)
    while True:
        page = parsed(Page.from_json, exchange.get("/jobs", params=params))
        yield from page.jobs
        if page.next is None:
            return
        params["after"] = page.next


def follow(
    exchange: Exchange, job_id: str, on_progress: Callable[[Job], None] | None
) -> Job:
    """Return a job once it has succeeded; `on_progress` sees every changed state.

    Raises:
        JobFailed: the job ended failed or cancelled.
    """
    etag, job = "", None
    while True:
        headers = {"If-None-Match": etag} if etag else {}
        response = exchange.get(job_path(job_id), headers=headers)
        if response.status_code != 304 or job is None:
            job = parsed(Job.from_json, response)
            etag = response.headers.get("ETag", "")
            if on_progress is not None:
                on_progress(job)
        if job.is_terminal:
            break
        exchange.sleep(retry_after(response, default=POLL_SECONDS))
    if job.status != "succeeded":
        raise JobFailed(job.id, status=job.status, failure=job.error)
    return job


def job_path(job_id: str) -> str:
    """Return where a job is: its id is one segment, whatever was typed."""
    return f"/jobs/{quote(job_id, safe='')}"

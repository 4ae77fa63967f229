"""The service as one typed object.

with Client("http://127.0.0.1:8000") as client:
    job = client.submit("ddpm-cifar10-small", weight_bits=4, activation_bits=8)
    client.wait(job.id)
    client.download(job.id, Path("checkpoint"))
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar
from urllib.parse import quote

import httpx2

from tcaq_client.archive import refuse_occupied, unpack
from tcaq_client.catalog import Model, Preset
from tcaq_client.errors import ChecksumMismatch, JobFailed
from tcaq_client.exchange import Exchange, parsed, retry_after
from tcaq_client.results import Image, Job, JsonObject, Page, Sample
from tcaq_client.sampling import Execution, SampleRequest, draw
from tcaq_client.transfer import OnBytes, fetch

T = TypeVar("T")

DEFAULT_URL: Final = "http://127.0.0.1:8000"
POLL_SECONDS: Final = 2.0
"""Pause between two looks at a job when the service names none."""


class Client:
    """A connection to one service; a context manager that closes it.

    `timeout` is in seconds, for each step of one request. `transport` and `sleep` are
    for tests: httpx2.MockTransport answers without a network. GETs are repeated a few
    times when the connection breaks; nothing else is.

    Every method raises `ConnectionFailed` without an answer and `Problem` when the
    service refuses.

    Raises:
        ValueError: `base_url` is not an http or https URL.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        transport: httpx2.BaseTransport | None = None,
        timeout: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._exchange = Exchange(
            base_url, transport=transport, timeout_seconds=timeout, sleep=sleep
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._exchange.close()

    def submit(
        self,
        model: str,
        *,
        weight_bits: int,
        activation_bits: int,
        recipe: str | Mapping[str, Any] = "standard",
        softmax_bits: int | None = None,
        calibration: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        exports: Sequence[str] | None = None,
    ) -> Job:
        """Queue a quantization; `recipe` is a preset's name or a method object.

        `exports` are formats to write besides the checkpoint: ``["onnx"]``. What is
        None is left to the service's default. Not repeated when the connection
        breaks: look at `jobs` before submitting again.
        """
        optional = {
            "softmax_bits": softmax_bits,
            "calibration": calibration,
            "labels": labels,
            "exports": None if exports is None else list(exports),
        }
        body = {
            "model": model,
            "weight_bits": weight_bits,
            "activation_bits": activation_bits,
            "recipe": recipe,
        } | {name: value for name, value in optional.items() if value is not None}
        return parsed(Job.from_json, self._exchange.post("/jobs", body=body))

    def job(self, job_id: str) -> Job:
        """Return a job as it is now."""
        return parsed(Job.from_json, self._exchange.get(_job_path(job_id)))

    def jobs(
        self,
        *,
        status: str | None = None,
        order: Literal["asc", "desc"] = "desc",
        page_size: int = 50,
    ) -> Iterator[Job]:
        """Yield jobs, newest first, fetching page after page as they are consumed."""
        params: dict[str, str | int] = {"limit": page_size, "order": order}
        if status is not None:
            params["status"] = status
        while True:
            page = parsed(Page.from_json, self._exchange.get("/jobs", params=params))
            yield from page.jobs
            if page.next is None:
                return
            params["after"] = page.next

    def wait(
        self, job_id: str, on_progress: Callable[[Job], None] | None = None
    ) -> Job:
        """Return the job once it has succeeded, looking as often as Retry-After asks.

        `on_progress` is called with every changed state, the last one included; what
        it raises ends the wait. The job is not cancelled by leaving.

        Raises:
            JobFailed: the job ended failed or cancelled.
        """
        etag, job = "", None
        while True:
            headers = {"If-None-Match": etag} if etag else {}
            response = self._exchange.get(_job_path(job_id), headers=headers)
            if response.status_code != 304 or job is None:
                job = parsed(Job.from_json, response)
                etag = response.headers.get("ETag", "")
                if on_progress is not None:
                    on_progress(job)
            if job.is_terminal:
                break
            self._exchange.sleep(retry_after(response, default=POLL_SECONDS))
        if job.status != "succeeded":
            raise JobFailed(job.id, status=job.status, failure=job.error)
        return job

    def cancel(self, job_id: str) -> Job:
        """Ask for a job's end; a running one stops at its next check."""
        return parsed(Job.from_json, self._exchange.post(f"{_job_path(job_id)}/cancel"))

    def download(
        self, job_id: str, folder: Path, *, on_bytes: OnBytes | None = None
    ) -> Path:
        """Fetch a job's checkpoint into the new `folder` and return it.

        The folder appears complete and verified, or not at all. A transfer that
        breaks off is resumed, also by the next call.

        Raises:
            FileExistsError: `folder` exists and holds something.
            ChecksumMismatch: what arrived is not what the service announced.
            UnsafeArchive: links, devices, or paths that leave the folder.
        """
        folder = folder.absolute()
        refuse_occupied(folder)
        archive = fetch(
            self._exchange,
            f"{_job_path(job_id)}/checkpoint",
            folder=folder.parent,
            name=folder.name,
            on_bytes=on_bytes or (lambda _arrived, _total: None),
        )
        try:
            unpack(archive, folder)
        finally:
            archive.unlink()
        return folder

    def download_onnx(
        self, job_id: str, file: Path, *, on_bytes: OnBytes | None = None
    ) -> Path:
        """Fetch a job's ONNX file to the new `file` and return it, as `download` does.

        Only a job whose `exports` named it has one.

        Raises:
            FileExistsError: `file` exists.
            ChecksumMismatch: what arrived is not what the service announced.
        """
        file = file.absolute()
        refuse_occupied(file)
        fetch(
            self._exchange,
            f"{_job_path(job_id)}/onnx",
            folder=file.parent,
            name=file.name,
            on_bytes=on_bytes or (lambda _arrived, _total: None),
        ).replace(file)
        return file

    def sample(
        self,
        target: str,
        *,
        n: int = 1,
        seed: int = 0,
        steps: int = 50,
        eta: float = 0.0,
        compare_to: Literal["baseline"] | None = None,
        execution: Execution = "auto",
    ) -> Sample:
        """Draw `n` images; image i depends on the seed `seed + i` only.

        `target` is a job's id, a checkpoint's SHA-256, or a model's name (which draws
        from the model in full precision). `compare_to` draws the full-precision
        images of the same noise too. `execution` is how a checkpoint computes: `auto`
        is on integers wherever the service's worker can.

        Raises:
            JobFailed: the sampling ended failed or cancelled.
        """
        request = SampleRequest(target, n, seed, steps, eta, compare_to, execution)
        response = draw(self._exchange, request, accept="application/json")
        return parsed(Sample.from_json, response)

    def sample_png(
        self,
        target: str,
        *,
        n: int = 1,
        seed: int = 0,
        steps: int = 50,
        eta: float = 0.0,
        compare_to: Literal["baseline"] | None = None,
        execution: Execution = "auto",
    ) -> bytes:
        """Draw as `sample` does and return the grid of all images, as a PNG."""
        request = SampleRequest(target, n, seed, steps, eta, compare_to, execution)
        response = draw(self._exchange, request, accept="image/png")
        if response.headers.get("Content-Type") == "image/png":
            return response.content
        return self.image(parsed(Sample.from_json, response).grid)

    def image(self, image: Image) -> bytes:
        """Return the PNG file of an image or a grid.

        Raises:
            ChecksumMismatch: what arrived is not the image's content.
        """
        content = self._exchange.get(f"/artifacts/{image.sha256}/content").content
        actual = hashlib.sha256(content).hexdigest()
        if actual != image.sha256:
            raise ChecksumMismatch(
                f"The image {image.sha256} arrived as {actual}.", hint="Fetch it again."
            )
        return content

    def models(self) -> tuple[Model, ...]:
        """Return the service's model folders, the unusable ones with the reason."""
        return self._list("/models", Model.from_json)

    def recipes(self) -> tuple[Preset, ...]:
        """Return the named recipes."""
        return self._list("/recipes", Preset.from_json)

    def _list(self, path: str, read: Callable[[JsonObject], T]) -> tuple[T, ...]:
        response = self._exchange.get(path)
        return parsed(lambda page: tuple(map(read, page["data"])), response)


def _job_path(job_id: str) -> str:
    # An id goes into the path as one segment, whatever was typed.
    return f"/jobs/{quote(job_id, safe='')}"

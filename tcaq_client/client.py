"""The service as one typed object.

with Client("http://127.0.0.1:8000") as client:
    job = client.submit("ddpm-cifar10-small", weight_bits=4, activation_bits=8)
    client.wait(job.id)
    client.download(job.id, Path("checkpoint"))
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeAlias, TypeVar

import httpx2

from tcaq_client.catalog import Model, Preset, Protocol
from tcaq_client.downloads import download_file, download_folder, read_artifact
from tcaq_client.exchange import Exchange, parsed
from tcaq_client.following import follow, job_path, walk
from tcaq_client.images import Image, Sample
from tcaq_client.requests import evaluation_of, said, target_of
from tcaq_client.results import Job, JsonObject
from tcaq_client.sampling import Execution, SampleRequest, draw
from tcaq_client.transfer import OnBytes

T = TypeVar("T")
Recipe: TypeAlias = str | Mapping[str, Any]
Asked: TypeAlias = str | Mapping[str, Any]
"""A protocol's name, or the whole `evaluation` of a request."""

DEFAULT_URL: Final = "http://127.0.0.1:8000"


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
        recipe: Recipe = "standard",
        softmax_bits: int | None = None,
        calibration: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        exports: Sequence[str] | None = None,
        evaluation: Asked | None = None,
        guards: Mapping[str, Any] | None = None,
    ) -> Job:
        """Queue a quantization; `recipe` is a preset's name or a method object.

        `exports` are formats to write besides the checkpoint: ``["onnx"]``.
        `evaluation` is a protocol's name or an object, `guards` what the result must
        not cost: ``{"min_psnr_db": 25, "on_violation": "raise_bits"}``. What is None
        is left to the service's default. Not repeated when the connection breaks:
        look at `jobs` before submitting again.
        """
        body = said(
            model=model,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            recipe=recipe,
            softmax_bits=softmax_bits,
            calibration=calibration,
            labels=labels,
            exports=None if exports is None else list(exports),
            evaluation=evaluation_of(evaluation),
            guards=guards,
        )
        return self._queue(body)

    def evaluate(
        self,
        target: str,
        *,
        evaluation: Asked | None = None,
        execution: Execution = "auto",
        labels: Mapping[str, str] | None = None,
    ) -> Job:
        """Queue an evaluation of a job's checkpoint, a checkpoint or a model.

        `target` and `execution` are those of `sample`; `evaluation` is a protocol's
        name or an object. The job that `wait` returns has `scores`.
        """
        body = said(
            kind="evaluate",
            target=target_of(target),
            evaluation=evaluation_of(evaluation),
            execution=execution,
            labels=labels,
        )
        return self._queue(body)

    def sweep(
        self,
        model: str,
        *,
        settings: Sequence[Mapping[str, int]],
        recipes: Sequence[Recipe] = ("standard",),
        calibration: Mapping[str, Any] | None = None,
        evaluation: Asked | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Job:
        """Queue a quantization and evaluation at every setting with every recipe.

        `settings` are ``{"weight_bits": 4, "activation_bits": 8}``. The job that
        `wait` returns has `points`; `pareto_picture` draws them.
        """
        body = said(
            kind="sweep",
            model=model,
            settings=[dict(setting) for setting in settings],
            recipes=list(recipes),
            calibration=calibration,
            evaluation=evaluation_of(evaluation),
            labels=labels,
        )
        return self._queue(body)

    def job(self, job_id: str) -> Job:
        """Return a job as it is now."""
        return parsed(Job.from_json, self._exchange.get(job_path(job_id)))

    def jobs(
        self,
        *,
        kind: Literal["quantize", "evaluate", "sweep"] | None = None,
        status: str | None = None,
        order: Literal["asc", "desc"] = "desc",
        page_size: int = 50,
    ) -> Iterator[Job]:
        """Yield jobs, newest first, fetching page after page as they are consumed."""
        params: dict[str, str | int] = {"limit": page_size, "order": order}
        if kind is not None:
            params["kind"] = kind
        if status is not None:
            params["status"] = status
        return walk(self._exchange, params)

    def wait(
        self, job_id: str, on_progress: Callable[[Job], None] | None = None
    ) -> Job:
        """Return the job once it has succeeded, looking as often as Retry-After asks.

        `on_progress` is called with every changed state, the last one included; what
        it raises ends the wait. The job is not cancelled by leaving.

        Raises:
            JobFailed: the job ended failed or cancelled.
        """
        return follow(self._exchange, job_id, on_progress)

    def cancel(self, job_id: str) -> Job:
        """Ask for a job's end; a running one stops at its next check."""
        return parsed(Job.from_json, self._exchange.post(f"{job_path(job_id)}/cancel"))

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
        path = f"{job_path(job_id)}/checkpoint"
        return download_folder(self._exchange, path, folder, on_bytes)

    def download_onnx(
        self, job_id: str, file: Path, *, on_bytes: OnBytes | None = None
    ) -> Path:
        """Fetch a job's ONNX file to the new `file` and return it, as `download` does.

        Only a job whose `exports` named it has one.

        Raises:
            FileExistsError: `file` exists.
            ChecksumMismatch: what arrived is not what the service announced.
        """
        path = f"{job_path(job_id)}/onnx"
        return download_file(self._exchange, path, file, on_bytes)

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
        return read_artifact(self._exchange, image.sha256)

    def pareto_picture(self, job_id: str) -> bytes:
        """Return the picture of a finished sweep's points, as a PNG.

        Raises:
            ValueError: the job is no sweep that has succeeded.
            ChecksumMismatch: what arrived is not the picture.
        """
        picture = (self.job(job_id).result or {}).get("picture")
        if picture is None:
            raise ValueError(f"{job_id} is no sweep that has succeeded.")
        return read_artifact(self._exchange, picture["sha256"])

    def models(self) -> tuple[Model, ...]:
        """Return the service's model folders, the unusable ones with the reason."""
        return self._list("/models", Model.from_json)

    def recipes(self) -> tuple[Preset, ...]:
        """Return the named recipes."""
        return self._list("/recipes", Preset.from_json)

    def protocols(self) -> tuple[Protocol, ...]:
        """Return the evaluation protocols, the unusable ones with the reason."""
        return self._list("/protocols", Protocol.from_json)

    def _queue(self, body: JsonObject) -> Job:
        return parsed(Job.from_json, self._exchange.post("/jobs", body=body))

    def _list(self, path: str, read: Callable[[JsonObject], T]) -> tuple[T, ...]:
        response = self._exchange.get(path)
        return parsed(lambda page: tuple(map(read, page["data"])), response)

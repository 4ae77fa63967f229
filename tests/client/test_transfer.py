import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tcaq_client import (
    ChecksumMismatch,
    ConnectionFailed,
    Problem,
    UnexpectedAnswer,
    UnsafeArchive,
)
from tests.client.answers import JOB_ID, problem, tar
from tests.client.conftest import Connect

CONTENT = tar({"manifest.json": b"{}", "unet/model.safetensors": bytes(range(256)) * 9})
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Body(httpx2.SyncByteStream):
    """A body as it comes over a network: in pieces, perhaps not to its end."""

    def __init__(self, content: bytes, *, breaks_at: int | None = None) -> None:
        self._content = content
        self._breaks_at = breaks_at

    def __iter__(self) -> Iterator[bytes]:
        yield self._content[: self._breaks_at]
        if self._breaks_at is not None:
            raise httpx2.ReadError("connection reset")


class Store:
    """The checkpoint's route: ranges as RFC 9110 has them, and what goes wrong."""

    def __init__(
        self,
        content: bytes = CONTENT,
        *,
        etag: str | None = None,
        bytes_per_try: int = 0,
    ) -> None:
        self.content = content
        self.etag = etag or f'"{hashlib.sha256(content).hexdigest()}"'
        self.bytes_per_try = bytes_per_try
        self.ranges: list[str | None] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        assert request.url.path == f"/jobs/{JOB_ID}/checkpoint"
        assert request.headers["Accept-Encoding"] == "identity"
        wanted = request.headers.get("Range")
        self.ranges.append(wanted)
        start = 0
        if wanted and request.headers["If-Range"] == self.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start and start >= len(self.content):
            return httpx2.Response(416, json=problem(416, "range_not_satisfiable"))
        rest = self.content[start:]
        headers = {"ETag": self.etag, "Content-Length": str(len(rest))}
        status = 206 if start else 200
        breaks = 0 < self.bytes_per_try < len(rest)
        body = Body(rest, breaks_at=self.bytes_per_try if breaks else None)
        return httpx2.Response(status, headers=headers, stream=body)


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob(".checkpoint.*"))


def test_a_checkpoint_is_verified_and_unpacked(
    tmp_path: Path, connect: Connect
) -> None:
    seen: list[tuple[int, int | None]] = []
    folder = connect(Store()).download(
        JOB_ID, tmp_path / "checkpoint", on_bytes=lambda *step: seen.append(step)
    )
    assert (folder / "unet" / "model.safetensors").read_bytes() == bytes(range(256)) * 9
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert list(tmp_path.iterdir()) == [folder]


def test_a_broken_download_goes_on_where_it_stopped(
    tmp_path: Path, connect: Connect, pauses: list[float]
) -> None:
    store = Store(bytes_per_try=4000)
    connect(store).download(JOB_ID, tmp_path / "checkpoint")
    assert store.ranges == [None, "bytes=4000-", "bytes=8000-"]
    assert (tmp_path / "checkpoint" / "manifest.json").read_bytes() == b"{}"
    assert pauses == [0.25, 0.25]


def test_many_breaks_are_survived_as_long_as_bytes_arrive(
    tmp_path: Path, connect: Connect
) -> None:
    store = Store(bytes_per_try=500)
    connect(store).download(JOB_ID, tmp_path / "checkpoint")
    assert len(store.ranges) > 20


def test_another_process_continues_what_the_first_left(
    tmp_path: Path, connect: Connect
) -> None:
    (tmp_path / f".checkpoint.{SHA256}.part").write_bytes(CONTENT[:6000])
    store = Store()
    connect(store).download(JOB_ID, tmp_path / "checkpoint")
    assert store.ranges == ["bytes=6000-"]
    assert parts(tmp_path) == []


def test_a_part_that_was_complete_is_used_as_it_is(
    tmp_path: Path, connect: Connect
) -> None:
    (tmp_path / f".checkpoint.{SHA256}.part").write_bytes(CONTENT)
    store = Store()
    connect(store).download(JOB_ID, tmp_path / "checkpoint")
    assert store.ranges == [f"bytes={len(CONTENT)}-"]
    assert (tmp_path / "checkpoint" / "manifest.json").is_file()


def test_a_part_of_other_content_is_not_continued(
    tmp_path: Path, connect: Connect
) -> None:
    (tmp_path / f".checkpoint.{'a' * 64}.part").write_bytes(b"something else")
    connect(Store()).download(JOB_ID, tmp_path / "checkpoint")
    assert (tmp_path / "checkpoint" / "manifest.json").is_file()
    assert parts(tmp_path) == []


def test_content_that_changes_during_the_download_starts_again(
    tmp_path: Path, connect: Connect
) -> None:
    old, new = Store(tar({"a": b"old"}), bytes_per_try=100), Store()
    stores = iter((old, new))

    def answer(request: httpx2.Request) -> httpx2.Response:
        return next(stores)(request)

    connect(answer).download(JOB_ID, tmp_path / "checkpoint")
    assert (tmp_path / "checkpoint" / "manifest.json").is_file()
    assert parts(tmp_path) == []


def test_wrong_bytes_are_thrown_away(tmp_path: Path, connect: Connect) -> None:
    store = Store(etag=f'"{"b" * 64}"')
    with pytest.raises(ChecksumMismatch, match="b" * 64):
        connect(store).download(JOB_ID, tmp_path / "checkpoint")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_part_is_not_trusted(tmp_path: Path, connect: Connect) -> None:
    (tmp_path / f".checkpoint.{SHA256}.part").write_bytes(b"?" * 6000)
    with pytest.raises(ChecksumMismatch):
        connect(Store()).download(JOB_ID, tmp_path / "checkpoint")
    assert list(tmp_path.iterdir()) == []


def test_an_unsafe_archive_is_removed(tmp_path: Path, connect: Connect) -> None:
    with pytest.raises(UnsafeArchive):
        connect(Store(tar({"../evil": b""}))).download(JOB_ID, tmp_path / "checkpoint")
    assert list(tmp_path.iterdir()) == []


def test_without_any_byte_the_download_gives_up_and_keeps_what_it_has(
    tmp_path: Path, connect: Connect, pauses: list[float]
) -> None:
    part = tmp_path / f".checkpoint.{SHA256}.part"
    part.write_bytes(CONTENT[:6000])

    def refuse(_: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    with pytest.raises(ConnectionFailed, match="refused"):
        connect(refuse).download(JOB_ID, tmp_path / "checkpoint")
    assert pauses == [0.25, 0.5, 1.0, 2.0]
    assert part.read_bytes() == CONTENT[:6000]


def test_an_overloaded_service_is_asked_again(tmp_path: Path, connect: Connect) -> None:
    answers = iter([httpx2.Response(503, text="busy")])
    store = Store()
    connect(lambda request: next(answers, None) or store(request)).download(
        JOB_ID, tmp_path / "checkpoint"
    )
    assert (tmp_path / "checkpoint").is_dir()


def test_a_refusal_is_not_repeated(
    tmp_path: Path, connect: Connect, pauses: list[float]
) -> None:
    document = problem(409, "job_not_ready", detail="The job is running.")
    with pytest.raises(Problem, match="running") as caught:
        connect(lambda _: httpx2.Response(409, json=document)).download(
            JOB_ID, tmp_path / "checkpoint"
        )
    assert caught.value.code == "job_not_ready"
    assert pauses == []


def test_an_answer_that_names_no_content_is_not_downloaded(
    tmp_path: Path, connect: Connect
) -> None:
    with pytest.raises(UnexpectedAnswer, match="ETag"):
        connect(lambda _: httpx2.Response(200, text="hello")).download(
            JOB_ID, tmp_path / "checkpoint"
        )


def test_an_occupied_folder_is_refused_before_anything_is_asked(
    tmp_path: Path, connect: Connect
) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "mine").write_text("precious")
    store = Store()
    with pytest.raises(FileExistsError):
        connect(store).download(JOB_ID, tmp_path / "checkpoint")
    assert store.ranges == []

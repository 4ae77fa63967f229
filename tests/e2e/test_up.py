"""``tcaq up`` as a user starts it: real processes, real HTTP, nothing left behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from socket import socket

import pytest

from tcaq_client import Client
from tests.conftest import free_port
from tests.e2e.deployment import WAIT_SECONDS, is_alive, wait_for
from tests.tiny import save_tiny_pipeline

UP = "from jobs.up import up; import typer; typer.run(up)"
ROOT = Path(__file__).resolve().parents[2]


class Up:
    """A running ``tcaq up`` on a folder of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.data = folder / "data"
        self.output = folder / "output"
        self.process = self._start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_until_ready(self) -> None:
        def is_ready() -> bool:
            text = self.output.read_text()
            assert self.process.poll() is None, text
            return "Ready on" in text

        wait_for(is_ready, "tcaq up")

    def processes(self) -> list[int]:
        """Return every live process of it: all carry its folder in their variables."""
        mark = f"TCAQ_DATA_DIRECTORY={self.data}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                variables = (path / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if mark in variables and is_alive(int(path.name)):
                found.append(int(path.name))
        return found

    def stop(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(WAIT_SECONDS)

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if k[:5] != "TCAQ_"}
        environment |= {
            "TCAQ_MODELS_DIRECTORY": str(self.folder / "models"),
            "TCAQ_DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",
        }
        with self.output.open("wb") as output:
            return subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    UP,
                    "--port",
                    str(self.port),
                    "--data",
                    self.data,
                    "--workers",
                    "1",
                ],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )


@contextmanager
def _running(folder: Path, port: int) -> Iterator[Up]:
    up = Up(folder, port)
    try:
        yield up
    finally:
        up.process.kill()
        up.process.wait()


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    save_tiny_pipeline(tmp_path / "models" / "tiny", seed=1)
    with _running(tmp_path, free_port()) as running:
        running.wait_until_ready()
        yield running


def _gone(up: Up) -> None:
    wait_for(lambda: not up.processes(), "the last process to end")


def test_it_serves_a_job_and_stops_with_nothing_left_behind(up: Up) -> None:
    assert len(up.processes()) >= 5
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in up.processes()]
    assert any(b"shards-1@%h" in command for command in commands)
    with closing(HTTPConnection("127.0.0.1", up.port)) as connection:
        connection.request("GET", "/readyz")
        assert connection.getresponse().status == 200
    with Client(up.url) as client:
        job = client.submit("tiny", weight_bits=4, activation_bits=8, recipe="rtn")
        ended = client.wait(job.id)
    assert ended.status == "succeeded"
    assert up.stop(signal.SIGINT) == 0
    _gone(up)
    assert up.output.read_text().endswith("Stopped.\n")


def test_a_worker_that_is_killed_is_started_again_with_a_message(up: Up) -> None:
    before = set(up.processes())
    (worker,) = [
        pid
        for pid in before
        if b"quantize@%h" in Path(f"/proc/{pid}/cmdline").read_bytes()
        and Path(f"/proc/{pid}/stat").read_text().split(") ")[1].split()[1]
        == str(up.process.pid)
    ]
    os.kill(worker, signal.SIGKILL)
    message = "quantize ended with exit code -9"
    wait_for(lambda: message in up.output.read_text(), "the message")
    wait_for(lambda: len(set(up.processes()) - before) >= 2, "the new worker")
    assert up.stop(signal.SIGTERM) == 0
    _gone(up)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_behind_by_a_stop_in_the_middle_of_a_job(
    up: Up, number: signal.Signals
) -> None:
    with Client(up.url) as client:
        job = client.submit("tiny", weight_bits=4, activation_bits=8, recipe="tcaq")
        wait_for(lambda: client.job(job.id).status == "running", "the job to start")
    up.stop(number)
    _gone(up)


def test_a_port_that_is_taken_is_said_at_once(tmp_path: Path) -> None:
    with closing(socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with _running(tmp_path, taken.getsockname()[1]) as up:
            assert up.process.wait(WAIT_SECONDS) == 1
            text = up.output.read_text()
            _gone(up)
    assert "service did not start" in text
    assert "address already in use" in text

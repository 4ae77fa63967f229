"""The embedded stack (`tcaq up`) as a child process that leaves nothing behind."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

import httpx2

START_SECONDS: Final = 120.0
STOP_SECONDS: Final = 60.0
GONE_SECONDS: Final = 10.0
"""How long the children's children may outlive the parent."""
POLL_SECONDS: Final = 0.2
LOG_LINES: Final = 15
_DATA_VARIABLE: Final = "TCAQ_DATA_DIRECTORY"


class StackFailed(Exception):
    """The stack did not start, or did not stop as it should."""


class Stack:
    """`tcaq up` on a fresh data directory and a free port of this machine.

    A context manager: ready on entry; on exit stopped, checked to have left no
    process, and its data removed. The log stays, its children's logs with it.

    Raises:
        StackFailed: on entry or exit, with what to look at.
    """

    def __init__(
        self, *, data: Path, log: Path, command: Sequence[str | Path] | None = None
    ) -> None:
        # A checkout's own command, not one that happens to be on the PATH.
        self._command = command or (Path(sys.executable).with_name("tcaq"), "up")
        self._data = data.absolute()
        self._log = log
        self._port = _free_port()
        self._last_words = ""
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        try:
            self._start()
            self._wait_until_ready()
        except BaseException as error:
            if failure := self._stop():
                error.add_note(failure)
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        failure = self._stop()
        if failure and error is None:
            raise StackFailed(failure)
        if failure and error is not None:
            error.add_note(failure)

    def last_words(self) -> str:
        """Return the last lines that `tcaq up` itself printed; empty until it ended."""
        return self._last_words

    def _start(self) -> None:
        self._data.mkdir(parents=True)
        environment = {k: v for k, v in os.environ.items() if k[:5] != "TCAQ_"}
        environment |= {
            _DATA_VARIABLE: str(self._data),
            "TCAQ_HOST": "127.0.0.1",
            "TCAQ_PORT": str(self._port),
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                self._command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches us alone; we then stop the stack in good order.
                start_new_session=True,
            )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        with httpx2.Client(trust_env=False) as http:
            while time.monotonic() < deadline:
                if self._process is not None and self._process.poll() is not None:
                    code = self._process.returncode
                    raise StackFailed(f"tcaq up ended at once with exit code {code}.")
                with suppress(httpx2.TransportError):
                    if http.get(f"{self.url}/readyz").status_code == 200:
                        return
                time.sleep(POLL_SECONDS)
        raise StackFailed(f"tcaq up was not ready after {START_SECONDS:.0f} s.")

    def _stop(self) -> str | None:
        """Stop everything and remove the data; return what went wrong."""
        failure = self._terminate()
        left = self._left_over()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._keep_logs()
        if self._data.exists():
            shutil.rmtree(self._data)
        if left:
            return f"tcaq up left processes behind (killed now): {left}."
        return failure

    def _keep_logs(self) -> None:
        """Add what the children logged to the log, before the data is removed."""
        if not self._log.exists():
            return
        lines = self._log.read_text(errors="replace").splitlines()
        self._last_words = "\n".join(lines[-LOG_LINES:])
        with self._log.open("ab") as log:
            for part in sorted((self._data / "logs").glob("*.log")):
                log.write(f"\n== {part.name} ==\n".encode() + part.read_bytes())

    def _terminate(self) -> str | None:
        process, self._process = self._process, None
        if process is None:
            return None
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return f"tcaq up did not stop within {STOP_SECONDS:.0f} s."
        return None

    def _left_over(self) -> list[int]:
        deadline = time.monotonic() + GONE_SECONDS
        while left := processes_with(f"{_DATA_VARIABLE}={self._data}"):
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_SECONDS)
        return left


def processes_with(variable: str) -> list[int]:
    """Return the processes whose environment holds ``NAME=value``.

    Children inherit the environment, also when they leave group and session.
    """
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        # Other users' processes, and those that end while we look.
        with suppress(OSError):
            if variable.encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return sorted(found)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

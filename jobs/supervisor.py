"""Child processes that are restarted when they die and never outlive their parent."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, Signals
from threading import Event
from time import monotonic
from types import TracebackType
from typing import Final, Self

from jobs import lifeline

STOP_SECONDS: Final = 20.0
POLL_SECONDS: Final = 0.2
FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 30.0
# One that ran this long was not in a crash loop.
STEADY_SECONDS: Final = 60.0
TAIL_LINES: Final = 5


@dataclass(frozen=True)
class Program:
    """What to run, and the signal that asks it to stop quickly but in order."""

    name: str
    command: Sequence[str]
    stop_signal: Signals


class Child:
    """One program: its present process and when it may be started again."""

    def __init__(
        self, program: Program, *, log: Path, environment: Mapping[str, str]
    ) -> None:
        self.program = program
        self.log = log
        self._environment = environment
        self._pause = FIRST_PAUSE_SECONDS
        self._groups: list[int] = []
        self.restart_at: float | None = None
        self.process = self._start()

    def note_death(self) -> float:
        """Plan the restart; return in how many seconds."""
        if monotonic() - self._started > STEADY_SECONDS:
            self._pause = FIRST_PAUSE_SECONDS
        pause = self._pause
        self._pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        self.restart_at = monotonic() + pause
        return pause

    def restart(self) -> None:
        """Start the program again."""
        self.process = self._start()
        self.restart_at = None

    def ask_to_stop(self) -> None:
        """Send the program's own stop signal."""
        with suppress(ProcessLookupError):
            self.process.send_signal(self.program.stop_signal)

    def end(self, *, deadline: float) -> None:
        """Wait for the process until `deadline`; then kill whatever is left of it."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(max(deadline - monotonic(), 0))
        for group in self._groups:
            # Also what a process killed earlier has left: its children keep its group.
            with suppress(ProcessLookupError):
                os.killpg(group, SIGKILL)
        self.process.wait()

    def tail(self) -> str:
        """Return the last lines of the program's log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-TAIL_LINES:])

    def _start(self) -> subprocess.Popen[bytes]:
        self._started = monotonic()
        program = self.program
        with self.log.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - a fixed list, no shell
                lifeline.command(program.command, death_signal=program.stop_signal),
                env=dict(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in a terminal reaches the parent alone, which stops the
                # children in order; and a group can be killed as a whole.
                process_group=0,
            )
        self._groups.append(process.pid)
        return process


class Supervisor:
    """Runs programs for the time of a ``with`` block; call from the main thread."""

    def __init__(
        self,
        programs: Sequence[Program],
        *,
        logs: Path,
        environment: Mapping[str, str],
        say: Callable[[str], None],
    ) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self._say = say
        self._programs = programs
        self._logs = logs
        self._environment = environment
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        for program in self._programs:
            log = self._logs / f"{program.name}.log"
            child = Child(program, log=log, environment=self._environment)
            self._children.append(child)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for child in self._children:
            child.ask_to_stop()
        deadline = monotonic() + STOP_SECONDS
        for child in self._children:
            child.end(deadline=deadline)

    def first_death(self) -> Child | None:
        """Return a child that has died; None while all live."""
        dead = (c for c in self._children if c.process.poll() is not None)
        return next(dead, None)

    def supervise(self, stop: Event) -> None:
        """Restart whatever dies until `stop` is set."""
        while not stop.wait(POLL_SECONDS):
            for child in self._children:
                if child.process.poll() is not None:
                    self._revive(child)

    def _revive(self, child: Child) -> None:
        if child.restart_at is None:
            pause = child.note_death()
            code = child.process.returncode
            self._say(
                f"{child.program.name} ended with exit code {code}; "
                f"starting it again in {pause:.0f} s. Its last words ({child.log}):\n"
                f"{child.tail()}"
            )
        elif monotonic() >= child.restart_at:
            child.restart()


def python(*arguments: str) -> list[str]:
    """Return a command for the interpreter that runs now."""
    return [sys.executable, *arguments]

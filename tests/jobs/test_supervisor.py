import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import supervisor
from jobs.supervisor import Program, Supervisor, python

# Says which run it is by a line in the file; then sleeps, or ends at once.
SLEEP = "import sys, time; open(sys.argv[1], 'a').write('x'); time.sleep(600)"
END = "import sys; open(sys.argv[1], 'a').write('x'); sys.exit('I cannot go on')"
STUBBORN = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "open(sys.argv[1], 'a').write('x'); time.sleep(600)"
)
WITH_CHILD = (
    "import subprocess, sys, time;"
    "child = subprocess.Popen(['sleep', '600']);"
    "open(sys.argv[1], 'w').write(str(child.pid)); time.sleep(600)"
)


class Stage:
    """A supervisor of one program, what it said, and what the program wrote."""

    def __init__(self, folder: Path, source: str) -> None:
        self.said: list[str] = []
        self.written = folder / "written"
        self.written.touch()
        program = Program(
            "actor", python("-c", source, str(self.written)), signal.SIGTERM
        )
        self.supervisor = Supervisor(
            [program],
            logs=folder / "logs",
            environment=dict(os.environ),
            say=self.said.append,
        )

    def pid(self) -> int:
        return self.supervisor._children[0].process.pid


def _await(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


def _is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(supervisor, "STOP_SECONDS", 2.0)


def _supervise_until(stage: Stage, condition: Callable[[], bool]) -> None:
    """Supervise in this thread, as `up` does, until another sees the condition."""
    stop = threading.Event()

    def watch() -> None:
        _await(condition)
        stop.set()

    thread = threading.Thread(target=watch)
    thread.start()
    stage.supervisor.supervise(stop)
    thread.join()


def test_a_program_that_dies_is_started_again_with_a_message(tmp_path: Path) -> None:
    stage = Stage(tmp_path, SLEEP)
    with stage.supervisor:
        _await(lambda: stage.written.read_text() == "x")
        first = stage.pid()
        os.kill(first, signal.SIGKILL)
        _supervise_until(stage, lambda: stage.written.read_text() == "xx")
        assert stage.pid() != first
    assert len(stage.said) == 1
    assert "actor ended with exit code -9" in stage.said[0]


def test_the_message_quotes_the_programs_last_words(tmp_path: Path) -> None:
    stage = Stage(tmp_path, END)
    with stage.supervisor:
        _supervise_until(stage, lambda: len(stage.said) >= 3)
    assert "I cannot go on" in stage.said[0]
    # Each pause is twice the one before: no crash loop at full speed.
    pauses = [child._pause for child in stage.supervisor._children]
    assert pauses[0] >= 0.05 * 2**3


def test_nothing_is_left_when_the_block_ends(tmp_path: Path) -> None:
    stage = Stage(tmp_path, SLEEP)
    with stage.supervisor:
        _await(lambda: stage.written.read_text() == "x")
        pid = stage.pid()
        assert _is_alive(pid)
    assert not _is_alive(pid)


def test_a_program_that_will_not_stop_is_killed(tmp_path: Path) -> None:
    stage = Stage(tmp_path, STUBBORN)
    with stage.supervisor:
        _await(lambda: stage.written.read_text() == "x")
        pid = stage.pid()
    assert not _is_alive(pid)
    assert stage.supervisor._children[0].process.returncode == -signal.SIGKILL


def test_a_childs_children_end_with_it(tmp_path: Path) -> None:
    stage = Stage(tmp_path, WITH_CHILD)
    with stage.supervisor:
        _await(lambda: stage.written.read_text().isdigit())
        grandchild = int(stage.written.read_text())
        assert _is_alive(grandchild)
    _await(lambda: not _is_alive(grandchild))


def test_what_was_started_is_stopped_when_the_block_fails(tmp_path: Path) -> None:
    stage = Stage(tmp_path, SLEEP)

    def fail() -> None:
        with stage.supervisor:
            _await(lambda: stage.written.read_text() == "x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not _is_alive(stage.pid())


def test_a_program_that_has_died_is_found(tmp_path: Path) -> None:
    stage = Stage(tmp_path, END)
    with stage.supervisor:
        _await(lambda: stage.supervisor.first_death() is not None)
        dead = stage.supervisor.first_death()
        assert dead is not None
        assert "I cannot go on" in dead.tail()

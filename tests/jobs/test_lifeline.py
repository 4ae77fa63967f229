import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from jobs import lifeline

ROOT = Path(__file__).resolve().parents[2]
# Starts a child on a lifeline, says its pid, and waits.
PARENT = """
import subprocess, sys, time
from signal import SIGTERM
from jobs import lifeline
source = "print('up', flush=True); import time; time.sleep(600)"
program = [sys.executable, "-c", source]
command = lifeline.command(program, death_signal=SIGTERM)
child = subprocess.Popen(command, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


def test_a_child_on_a_lifeline_ends_with_its_parent_even_by_kill_9() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, 0)
        parent.kill()
    while Path(f"/proc/{child}").exists():
        status = Path(f"/proc/{child}/stat").read_text()
        if status.rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.01)


def test_a_program_whose_parent_is_dead_already_is_not_started() -> None:
    command = lifeline.command(["/bin/echo", "started"], death_signal=signal.SIGTERM)
    # Another parent than the one the command was made for.
    other = [*command[:3], "1", *command[4:]]
    done = subprocess.run(other, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    assert done.stdout == b""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"started\n"

"""Become another program that the kernel signals when its parent dies.

``python -m jobs.lifeline PARENT_PID SIGNAL PROGRAM ARGUMENT…``: not even a parent that
was killed with SIGKILL leaves the program behind. Linux only; elsewhere the program
runs without that.
"""

import ctypes
import os
import sys
from collections.abc import Sequence
from signal import Signals
from typing import Final

PR_SET_PDEATHSIG: Final = 1


def command(program: Sequence[str], *, death_signal: Signals) -> list[str]:
    """Return the command that runs `program` tied to the calling process.

    The calling thread must live as long as the program may.
    """
    parent, number = str(os.getpid()), str(int(death_signal))
    return [sys.executable, "-m", "jobs.lifeline", parent, number, *program]


def main(arguments: Sequence[str]) -> None:
    """Replace this process; return only if the parent is dead already."""
    parent, number, *program = arguments
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, int(number)) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
        if os.getppid() != int(parent):
            return
    os.execvp(program[0], program)  # noqa: S606 - no shell: that is the point


if __name__ == "__main__":
    main(sys.argv[1:])

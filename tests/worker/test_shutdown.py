import signal
import subprocess
import sys
from pathlib import Path

import pytest

from worker.shutdown import leaves_in_order

ROOT = Path(__file__).resolve().parents[2]
# Two signals while it works; what it does on its way out is still done.
PROGRAM = """
import os, signal, threading
from worker.shutdown import leaves_in_order
threading.Thread(target=threading.Event().wait, daemon=True).start()
with leaves_in_order():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait()
    except SystemExit:
        os.kill(os.getpid(), signal.SIGTERM)
        print("gave back", flush=True)
        raise
print("never reached")
"""


def test_the_first_signal_ends_the_work_and_the_second_does_not_cut_it_short() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    assert done.stdout == b"gave back\n"


@pytest.mark.parametrize("failure", [None, ValueError])
def test_afterwards_the_signal_means_what_it_meant(
    failure: type[Exception] | None,
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        with leaves_in_order():
            assert signal.getsignal(signal.SIGTERM) != before
            if failure is not None:
                raise failure
    except ValueError:
        assert failure is ValueError
    assert signal.getsignal(signal.SIGTERM) == before

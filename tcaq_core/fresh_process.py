"""Whether a checkpoint alone, read by a process of its own, gives the same outputs."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from tcaq_core.errors import ExportFailed

POLL_SECONDS = 0.5


def check_reload(
    folder: Path,
    probe: str,
    *,
    device: torch.device,
    environment: Mapping[str, str],
    tick: Callable[[], None],
) -> None:
    """Return if ``python -m tcaq_core.reload`` finds the same probe to the last bit.

    `tick` is called while it works; what it raises ends the process and comes out.

    Raises:
        ExportFailed: it cannot read the folder, or finds something else.
    """
    if _probe(folder, device, environment, tick) != probe:
        raise ExportFailed(
            "The checkpoint, read by a fresh process, does not give the outputs of "
            "the model that it was written from.",
            hint="Submit the job again; if it fails again, report the recipe.",
        )


def _probe(
    folder: Path,
    device: torch.device,
    environment: Mapping[str, str],
    tick: Callable[[], None],
) -> str:
    command = [sys.executable, "-m", "tcaq_core.reload", str(folder)]
    command += ["--device", str(device), "--threads", str(torch.get_num_threads())]
    with subprocess.Popen(  # noqa: S603 - a fixed list, and paths that we made
        command, stdout=subprocess.PIPE, text=True, env=dict(environment)
    ) as process:
        try:
            while True:
                try:
                    output, _ = process.communicate(timeout=POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    tick()
        finally:
            process.kill()
    if process.returncode != 0:
        raise ExportFailed(
            "A fresh process could not read the checkpoint.",
            hint="The worker's log has its message.",
        )
    return str(json.loads(output)["probe_sha256"])

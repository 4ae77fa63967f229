"""Reload a checkpoint in this (fresh) process and print what its probe gives.

A job runs ``python -m tcaq_core.reload FOLDER`` before it says that it succeeded:
the checkpoint alone, without the model or the process it came from, has to give the
same outputs to the last bit.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from tcaq_core.checkpoint import load, probe
from tcaq_core.environment import make_deterministic
from tcaq_core.errors import TCAQError


def main() -> int:
    """Print one JSON line: the probe's digest, or the error's code and detail."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    make_deterministic()
    try:
        checkpoint = load(arguments.folder, device=torch.device(arguments.device))
    except TCAQError as error:
        answer = {"error": error.code, "detail": error.detail}
        sys.stdout.write(json.dumps(answer) + "\n")
        return 1
    answer = {"probe_sha256": probe(checkpoint.pipeline, checkpoint.denoiser)}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

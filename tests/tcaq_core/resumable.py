"""Small jobs that can be resumed; as a program, one that is killed again and again.

``python -m tests.tcaq_core.resumable MODEL SCRATCH RECIPE`` quantizes in a child that
is killed with SIGKILL at random moments, until one gets through.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

from tcaq_core import checkpoint
from tcaq_core.diffusion import load_pipeline
from tcaq_core.journal import FolderJournal, Journal
from tcaq_core.quantization import Progress, quantize
from tcaq_core.recipe import (
    PAR,
    CalibrationSpec,
    FitRanges,
    Method,
    Pass,
    Recipe,
    resolve,
)
from tcaq_core.workspace import Workspace

RANGES = FitRanges(weight="min_max", activation="min_max")
ROUNDS = PAR(rounds=1, iterations=2, round_iterations=2, batch_size=2, num_inputs=4)
KILLS = 4


def save_small_pipeline(folder: Path) -> Path:
    """Write a random pipeline with one level: residual blocks, attention, 8 x 8."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8,),
        down_block_types=("AttnDownBlock2D",),
        up_block_types=("UpBlock2D",),
        attention_head_dim=4,
        norm_num_groups=4,
    )
    pipeline = DDIMPipeline(unet=unet, scheduler=DDIMScheduler())
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def recipe_of(*passes: Pass) -> Recipe:
    """Return a recipe that takes a second on the tiny model."""
    return resolve(
        Method(passes=passes),
        weight_bits=4,
        activation_bits=8,
        calibration=CalibrationSpec(num_samples=2, num_steps=2),
    )


def quantize_once(
    model: Path,
    out: Path,
    recipe: Recipe,
    *,
    progress: Progress,
    journal: Journal | None = None,
    workspace: Workspace | None = None,
) -> dict[str, str]:
    """Quantize a pipeline just loaded; return what its checkpoint consists of."""
    pipeline = load_pipeline(model, device=torch.device("cpu"))
    result = quantize(
        pipeline, recipe, progress=progress, journal=journal, workspace=workspace
    )
    manifest = checkpoint.save(
        out, pipeline, result.denoiser, recipe, model={}, environment={}
    )
    return manifest.files | {"structure": manifest.structure.model_dump_json()}


def _work(model: Path, scratch: Path, recipe: Recipe) -> None:
    hashes = quantize_once(
        model,
        scratch / f"out-{os.getpid()}",
        recipe,
        progress=lambda *_: None,
        journal=FolderJournal(scratch / "journal", "f"),
    )
    (scratch / "hashes.json").write_text(json.dumps(hashes))


def _attempt(
    model: Path, scratch: Path, recipe: Recipe, *, seconds: float | None
) -> float:
    start = time.monotonic()
    # Forked: a fresh interpreter would spend its seconds on importing torch.
    child = os.fork()
    if child == 0:
        _work(model, scratch, recipe)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return time.monotonic() - start


def main() -> None:
    """Kill attempts at random moments, then let one finish; print what came out."""
    torch.set_num_threads(1)
    model, scratch = Path(sys.argv[1]), Path(sys.argv[2])
    recipe = Recipe.model_validate_json(sys.argv[3])
    moments = random.Random(0)  # noqa: S311 - no secret
    rehearsal = scratch / "rehearsal"
    rehearsal.mkdir()
    seconds = _attempt(model, rehearsal, recipe, seconds=None)
    kills = 0
    for _ in range(KILLS):
        _attempt(model, scratch, recipe, seconds=seconds * moments.uniform(0.1, 0.4))
        kills += not (scratch / "hashes.json").exists()
    _work(model, scratch, recipe)
    hashes = json.loads((scratch / "hashes.json").read_text())
    sys.stdout.write(json.dumps({"kills": kills, "hashes": hashes}))


if __name__ == "__main__":
    main()

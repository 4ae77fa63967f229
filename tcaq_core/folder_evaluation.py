"""An evaluation without a server: a checkpoint or model folder in, score records out.

Shards are files below a working folder, named by everything that decides their bytes:
an evaluation that was interrupted goes on where it stopped, and two that share a
baseline draw it once.
"""

import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch

from tcaq_core import checkpoint
from tcaq_core.diffusion import Pipeline, load_pipeline
from tcaq_core.environment import make_deterministic
from tcaq_core.errors import ModelNotFound
from tcaq_core.evaluation.check import check_model_size, check_plan
from tcaq_core.evaluation.features import Extractor
from tcaq_core.evaluation.plan import EvaluationPlan
from tcaq_core.evaluation.record import ScoreRecord
from tcaq_core.evaluation.reference import Reference
from tcaq_core.evaluation.scoring import Scored, score
from tcaq_core.evaluation.shard import Subject, make_shard
from tcaq_core.fingerprint import environment_digest
from tcaq_core.model_folder import inspect_model_folder
from tcaq_core.runtime.integer import compile_integer

MANIFEST: Final = "manifest.json"

Progress = Callable[[str, int, int], None]
"""Receives (subject, images done, images in all)."""


@dataclass(frozen=True)
class Source:
    """Whose images are drawn: a pipeline, and the hashes that name it."""

    pipeline: Pipeline
    identity: Mapping[str, str]
    weights_sha256: str
    """Of the full-precision model that it is, or was quantized from."""
    execution: str


def is_checkpoint(folder: Path) -> bool:
    """Return whether a folder is a quantized checkpoint, not a model."""
    return (folder / MANIFEST).is_file()


def load_source(
    folder: Path, *, device: torch.device, simulate: bool = False
) -> Source:
    """Load a checkpoint, on integers unless `simulate`, or a full-precision model.

    Raises:
        TCAQError: as `checkpoint.load`, `load_pipeline` and `compile_integer`.
    """
    make_deterministic()
    if not is_checkpoint(folder):
        found = inspect_model_folder(folder)
        pipeline = load_pipeline(folder, device=device)
        files = [found.weights, *pipeline.files.values()]
        return Source(
            pipeline,
            {"model": _sha256(files)},
            found.weights_sha256(),
            "full-precision",
        )
    loaded = checkpoint.load(folder, device=device)
    kind = "simulated" if simulate else compile_integer(loaded.denoiser).kind
    # The manifest holds the hashes of all others, and loading has compared them.
    identity = {"checkpoint": _sha256([folder / MANIFEST]), "execution": kind}
    weights = str(loaded.manifest.model["weights_sha256"])
    return Source(loaded.pipeline, identity, weights, kind)


def evaluate_folder(
    target: Source,
    baseline: Source | None,
    plan: EvaluationPlan,
    *,
    extractor: Extractor | None,
    reference: Reference | None,
    work: Path,
    device: torch.device,
    progress: Progress,
) -> tuple[ScoreRecord, ...]:
    """Draw what is not drawn yet below `work`, and score it.

    Raises:
        ModelNotFound: the target was quantized from another model than the baseline.
        EvaluationFailed, ReferenceUnusable: as `check_plan`, `make_shard`, `score`.
    """
    check_plan(plan)
    channels, height, width = target.pipeline.image_shape
    check_model_size(plan, image_size=(height, width), channels=channels)
    if baseline is not None and baseline.weights_sha256 != target.weights_sha256:
        raise ModelNotFound(
            "The checkpoint was quantized from other weights than this model's.",
            hint="Name the folder of the model that it was made from.",
        )
    own = environment_digest(device)
    drawn = {
        name: _draw(
            source,
            plan,
            extractor,
            folder=work / plan.shard_set_digest(source.identity, own),
            progress=partial(progress, name),
        )
        for name, source in (("target", target), ("baseline", baseline))
        if source is not None
    }
    return score(
        Scored(plan, drawn["target"], drawn.get("baseline"), reference),
        execution=target.execution,
        environment_digest=own,
        tick=lambda: progress("score", 0, 1),
    )


def _draw(
    source: Source,
    plan: EvaluationPlan,
    extractor: Extractor | None,
    *,
    folder: Path,
    progress: Callable[[int, int], None],
) -> Subject:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(plan.num_shards):
        progress(plan.images_of(number).start, plan.num_images)
        path = folder / f"{number:06d}.safetensors"
        if not path.exists():
            _write(
                path, make_shard(source.pipeline, extractor, plan, number, tick=_go_on)
            )
        paths.append(path)
    progress(plan.num_images, plan.num_images)
    return Subject(tuple(paths), dict(source.identity))


def _go_on() -> None:
    """Never stop: Ctrl-C does."""


def _write(path: Path, content: bytes) -> None:
    """Write a file that appears complete or not at all."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    part.write_bytes(content)
    part.replace(path)


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            own = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.name} {own}\n".encode())
    return digest.hexdigest()

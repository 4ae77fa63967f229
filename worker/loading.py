"""Pipelines ready to sample with: loaded once, kept while they are in use."""

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from jobs.artifacts import CHUNK_BYTES
from jobs.errors import ArtifactCorrupt
from tcaq_core import checkpoint, diffusion
from tcaq_core.errors import ModelNotFound
from tcaq_core.runtime.integer import Execution, compile_integer
from worker import archive
from worker.context import Context
from worker.execution import Wanted, require_integer
from worker.models import Loaded, fetch_model

SIMULATED: Final = Execution(
    kind="simulated",
    kernels="torch-float32",
    integer_layers=0,
    simulated_layers={},
    note="Simulated quantization was asked for.",
)


def load_model(reference: str, context: Context) -> Loaded:
    """Return a model in full precision.

    Raises:
        TCAQError: as `fetch_model` and `load_pipeline`.
    """
    model = fetch_model(reference, context.settings)
    # By the hash of its weights: the folder of that name may have changed.
    name = f"model:{reference}:{model.info['weights_sha256']}"
    return context.pipelines.get(
        name,
        lambda: Loaded(
            diffusion.load_pipeline(model.folder, device=context.device),
            model.info,
        ),
    )


def load_checkpoint(
    sha256: str, context: Context, *, execution: Wanted = "auto"
) -> Loaded:
    """Return the quantized pipeline of a stored checkpoint, ready to execute.

    Raises:
        ArtifactNotFound: not in the store.
        ArtifactCorrupt: the stored bytes are not those that the name promises.
        ExecutionUnavailable: integers are asked for, and this worker has no kernels
            for them.
        TCAQError: as `unpack`, `checkpoint.load` and `compile_integer`.
    """
    # Compiling changes the denoiser in place: the two executions are two pipelines.
    simulate = execution == "simulated"
    loaded = context.pipelines.get(
        f"checkpoint:{sha256}:{'simulated' if simulate else 'compiled'}",
        lambda: _load_checkpoint(sha256, context, simulate=simulate),
    )
    if execution == "integer" and loaded.execution is not None:
        require_integer(loaded.execution)
    return loaded


def load_baseline(target: Loaded, context: Context) -> Loaded:
    """Return the full-precision model that the target was quantized from.

    Raises:
        ModelNotFound: the model is gone, or its weights are others by now.
    """
    model = load_model(str(target.info["reference"]), context)
    if model.info["weights_sha256"] != target.info["weights_sha256"]:
        raise ModelNotFound(
            f"{target.info['reference']} has other weights now than the model that "
            "was quantized.",
            hint="Quantize it again, or sample without compare_to.",
        )
    return model


def _load_checkpoint(sha256: str, context: Context, *, simulate: bool) -> Loaded:
    with TemporaryDirectory(prefix="checkpoint-", dir=context.scratch) as folder:
        _unpack_verified(sha256, Path(folder), context)
        loaded = checkpoint.load(Path(folder), device=context.device)
    execution = SIMULATED if simulate else compile_integer(loaded.denoiser)
    return Loaded(loaded.pipeline, loaded.manifest.model, execution)


def _unpack_verified(sha256: str, folder: Path, context: Context) -> None:
    digest = hashlib.sha256()
    with context.store.open(sha256) as stored:
        while chunk := stored.read(CHUNK_BYTES):
            digest.update(chunk)
        if digest.hexdigest() != sha256:
            raise ArtifactCorrupt(
                f"The stored checkpoint {sha256} is damaged.",
                hint="Run its job again: storing the same bytes heals the file.",
            )
        stored.seek(0)
        archive.unpack(stored, folder)

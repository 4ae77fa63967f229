"""The engines that the evaluation benchmark compares: one network, four ways to run it.

All hold the same random weights; what they compute is the same but for pytorch-fid's
resize and bfloat16's rounding. The Frechet step is each package's own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks import evaluation_fidelity as fidelity
from benchmarks import evaluation_pytorch_fid as pytorch_fid
from benchmarks.evaluation_engine import Engine
from tcaq_core.evaluation.extractors import load_extractor
from tcaq_core.evaluation.frechet import Gaussian, ReferenceRoot
from tcaq_core.evaluation.frechet_score import measure
from tcaq_core.evaluation.kernel_distance import TensorRows
from tcaq_core.evaluation.moments import FeatureMoments
from tcaq_core.evaluation.random_weights import save_random_inception
from tcaq_core.evaluation.record import ExtractorDtype

TORCH_FIDELITY: Final = fidelity.NAME
PYTORCH_FID: Final = pytorch_fid.NAME
FLOAT32: Final = "tcaq-float32"
BFLOAT16: Final = "tcaq-bfloat16"
ENGINES: Final = (TORCH_FIDELITY, PYTORCH_FID, FLOAT32, BFLOAT16)
SCORE: Final = "score"
INTERVAL: Final = "score with interval"
NUM_FEATURES: Final = 2048
WEIGHTS: Final = "random-inception.safetensors"
PICKLED: Final = "random-inception.pth"
_DTYPES: Final[dict[str, ExtractorDtype]] = {FLOAT32: "float32", BFLOAT16: "bfloat16"}


def save_weights(folder: Path, *, seed: int) -> Path:
    """Write one random Inception for all engines; return the safetensors file."""
    generator = torch.Generator().manual_seed(seed)
    save_random_inception(folder / WEIGHTS, generator=generator)
    # torch-fidelity reads pickles alone.
    torch.save(load_file(folder / WEIGHTS), folder / PICKLED)
    return folder / WEIGHTS


def build(name: str, folder: Path) -> Engine:
    """Return a ready engine on the weights that `save_weights` wrote.

    Raises:
        EngineUnavailable: it cannot run here.
    """
    if name == TORCH_FIDELITY:
        return fidelity.build_torch_fidelity(folder / PICKLED)
    if name == PYTORCH_FID:
        return pytorch_fid.build_pytorch_fid_style(folder / WEIGHTS)
    dtype = _DTYPES[name]
    network = load_extractor(folder / WEIGHTS, device=torch.device("cpu"), dtype=dtype)

    def extract(images: Tensor) -> Tensor:
        return network(images).pooled

    return Engine(name, extract, note=f"{dtype}, folded, channels last")


@dataclass(frozen=True)
class Step:
    """The Frechet step of one engine's score, its reference being prepared."""

    engine: str
    label: str
    """Of its row: the engine's name and what is computed."""
    compute: Callable[[Tensor], float]
    """Takes features (N, F), returns the distance to the reference."""


def steps(name: str, reference: Tensor) -> list[Step]:
    """Return the Frechet steps of an engine against a reference's features (N, F).

    What is prepared are the reference's mean and covariance, as all of them keep them
    in files; what follows from those is part of the step.

    Raises:
        EngineUnavailable: it cannot run here.
    """
    label = f"{name} {SCORE}"
    if name == TORCH_FIDELITY:
        kept = fidelity.statistics(reference)
        return [Step(name, label, partial(fidelity.distance, reference=kept))]
    if name == PYTORCH_FID:
        pytorch_fid.require()
        known = pytorch_fid.statistics(reference)
        return [Step(name, label, partial(pytorch_fid.distance, reference=known))]
    gaussian = Gaussian.of(FeatureMoments.of(reference))
    own = [Step(name, label, partial(_distance, reference=gaussian))]
    if name == FLOAT32:
        interval = partial(_with_interval, reference=gaussian)
        own.append(Step(name, f"{name} {INTERVAL}", interval))
    return own


def _distance(features: Tensor, reference: Gaussian) -> float:
    moments = FeatureMoments.of(features, origin=reference.mean)
    return ReferenceRoot.of(reference).distance(Gaussian.of(moments))


def _with_interval(features: Tensor, reference: Gaussian) -> float:
    root = ReferenceRoot.of(reference)
    found = measure(TensorRows(features), root, tick=lambda: None).value
    assert found is not None  # noqa: S101 - a Frechet distance is a number
    return found

"""torch-fidelity as a baseline of the evaluation benchmark; an optional package.

Its network and its Frechet step are called as its own `calculate_metrics` calls them,
on batches of its default size. What it does around them (a folder of PNGs decoded by
worker processes, lists of features) is left out, in its favour.
"""

import importlib
import importlib.util
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks.evaluation_engine import Engine, EngineUnavailable, Statistics

NAME: Final = "torch-fidelity"
BATCH: Final = 64
"""Its default batch size."""
INSTALL: Final = "pip install -c constraints.txt --no-deps torch-fidelity scipy tqdm"
_STUBS: Final = (
    "torchvision",
    "torchvision.datasets",
    "torchvision.transforms",
    "torchvision.transforms.functional",
)


class _Absent(ModuleType):
    """A module of which any name can be imported, and nothing can be used."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        inner = sys.modules.get(f"{self.__name__}.{name}")
        return type(name, (), {}) if inner is None else inner


def require() -> None:
    """Import what an engine needs.

    Raises:
        EngineUnavailable: the package is not installed.
    """
    _import("feature_extractor_inceptionv3")
    _import("metric_fid")


def build_torch_fidelity(weights: Path) -> Engine:
    """Return its Inception on the weights of a safetensors or a .pth file.

    Raises:
        EngineUnavailable: the package is not installed.
    """
    module = _import("feature_extractor_inceptionv3")
    network = module.FeatureExtractorInceptionV3(
        NAME, ["2048"], feature_extractor_weights_path=str(weights)
    )

    def extract(images: Tensor) -> Tensor:
        with torch.no_grad():
            batches = images.permute(0, 3, 1, 2).split(BATCH)
            return torch.cat([network(batch)[0] for batch in batches])

    return Engine(NAME, extract, note=f"its own graph, batch {BATCH}")


def statistics(features: Tensor) -> dict[str, Any]:
    """Return what torch-fidelity keeps of features (N, F)."""
    found: dict[str, Any] = _import("metric_fid").fid_features_to_statistics(features)
    return found


def distance(features: Tensor, reference: Statistics) -> float:
    """Return torch-fidelity's Frechet distance of features (N, F) to a reference."""
    metric = _import("metric_fid")
    found = metric.fid_statistics_to_metric(
        statistics(features), reference, verbose=False
    )
    return float(found[metric.KEY_METRIC_FID])


def _import(name: str) -> Any:  # noqa: ANN401 - the package has no types
    """Return one of its modules.

    It imports torchvision, of which nothing here is used: where there is none, a
    stand-in takes its place during the import, and only then. Others (diffusers) ask
    whether there is one.
    """
    loaded = sys.modules.get(f"torch_fidelity.{name}")
    if loaded is not None:
        return loaded
    stubbed = [] if importlib.util.find_spec("torchvision") else list(_STUBS)
    sys.modules.update({stub: _Absent(stub) for stub in stubbed})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(f"torch_fidelity.{name}")
    except ModuleNotFoundError as error:
        raise EngineUnavailable(f"{error.name} is not installed: {INSTALL}") from error
    finally:
        for stub in stubbed:
            sys.modules.pop(stub, None)

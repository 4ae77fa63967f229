"""torch-fidelity, which the metrics and the Inception graph are compared with."""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Final

import pytest

PACKAGE: Final = "torch_fidelity"
STUBS: Final = (
    "torchvision",
    "torchvision.datasets",
    "torchvision.transforms",
    "torchvision.transforms.functional",
)
MODULES: Final = (
    "feature_extractor_inceptionv3",
    "interpolate_compat_tensorflow",
    "metric_fid",
    "metric_isc",
    "metric_kid",
    "metric_prc",
)


class Absent(ModuleType):
    """A module of which any name can be imported, and nothing can be used."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        inner = sys.modules.get(f"{self.__name__}.{name}")
        return type(name, (), {}) if inner is None else inner


@pytest.fixture(name=PACKAGE, scope="module")
def import_torch_fidelity() -> Iterator[ModuleType]:
    """Give the package with `MODULES` as attributes; skip where it is not installed.

    It imports torchvision, which is not here and which nothing compared needs: a
    stand-in takes its place during the import. Afterwards, ``sys.modules`` is as it
    was. A test module imports this function and lists it in its ``__all__``.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        pytest.skip("torch-fidelity is not installed: make setup")
    before = dict(sys.modules)
    if importlib.util.find_spec("torchvision") is None:
        sys.modules.update({name: Absent(name) for name in STUBS})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            package = importlib.import_module(PACKAGE)
            for name in MODULES:
                importlib.import_module(f"{PACKAGE}.{name}")
        # diffusers and others ask whether there is a torchvision: there is none.
        _forget("torchvision", before)
        yield package
    finally:
        _forget("torchvision", before)
        _forget(PACKAGE, before)


def _forget(package: str, before: dict[str, ModuleType]) -> None:
    for name in list(sys.modules):
        if name.split(".")[0] == package and name not in before:
            del sys.modules[name]

"""Fixtures of the science: tiny pipelines, seeded generators."""

from pathlib import Path

import pytest
import torch

from tcaq_core.calibration import CalibrationSet, record_trajectories
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.diffusion import Pipeline, load_pipeline
from tcaq_core.recipe import CalibrationSpec, Recipe, resolve
from tests.tiny import save_tiny_pipeline

SPEC = CalibrationSpec(num_samples=4, num_steps=5, seed=0)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def pipeline(tiny_folder: Path) -> Pipeline:
    return load_pipeline(tiny_folder, device=torch.device("cpu"))


@pytest.fixture
def recipe() -> Recipe:
    return resolve("rtn", weight_bits=4, activation_bits=8, calibration=SPEC)


@pytest.fixture
def data(tiny_folder: Path) -> CalibrationSet:
    pipeline = load_pipeline(tiny_folder, device=torch.device("cpu"))
    return record_trajectories(pipeline, SPEC, seed=0)


@pytest.fixture
def denoiser(pipeline: Pipeline, recipe: Recipe) -> QuantizedDenoiser:
    return QuantizedDenoiser(pipeline.denoiser, recipe, num_timesteps=1000)

from pathlib import Path

import pytest
import torch

from tcaq_core import checkpoint
from tcaq_core.diffusion import load_pipeline
from tcaq_core.errors import EvaluationFailed, ModelNotFound
from tcaq_core.evaluation.plan import EvaluationPlan
from tcaq_core.evaluation.record import ScoreRecord
from tcaq_core.folder_evaluation import evaluate_folder, load_source
from tcaq_core.model_folder import inspect_model_folder
from tcaq_core.quantization import quantize
from tcaq_core.recipe import Recipe
from tests.tcaq_core.evaluation.plans import RandomNetwork, make_plan
from tests.tiny import save_tiny_pipeline

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint_folder(
    tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path
) -> Path:
    pipeline = load_pipeline(tiny_folder, device=CPU)
    recipe = Recipe.model_validate(
        {
            "weight_bits": 4,
            "activation_bits": 8,
            "method": {"passes": [{"kind": "fit_ranges"}]},
            "calibration": {"num_samples": 2, "num_steps": 3},
        }
    )
    made = quantize(pipeline, recipe, progress=lambda *_: None)
    folder = tmp_path_factory.mktemp("quantized") / "checkpoint"
    weights = inspect_model_folder(tiny_folder).weights_sha256()
    checkpoint.save(
        folder,
        pipeline,
        made.denoiser,
        recipe,
        model={"reference": "tiny", "weights_sha256": weights},
        environment={},
    )
    return folder


def _plan(**changes: object) -> EvaluationPlan:
    return make_plan(**({"metrics": ("psnr_db", "feature_distance")} | changes))


def _evaluate(
    target: Path, model: Path | None, work: Path, *, simulate: bool = False
) -> tuple[dict[str, ScoreRecord], list[tuple[str, int]]]:
    said: list[tuple[str, int]] = []
    records = evaluate_folder(
        load_source(target, device=CPU, simulate=simulate),
        None if model is None else load_source(model, device=CPU),
        _plan() if model is not None else _plan(baseline=False, metrics=("cs",)),
        extractor=RandomNetwork(),
        reference=None,
        work=work,
        device=CPU,
        progress=lambda name, done, _total: said.append((name, done)),
    )
    return {record.metric: record for record in records}, said


def test_a_checkpoint_is_scored_on_integers_beside_its_model(
    checkpoint_folder: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    found, said = _evaluate(checkpoint_folder, tiny_folder, tmp_path)
    assert found["psnr_db"].execution == "integer"
    assert found["psnr_db"].value is not None
    assert found["psnr_db"].value > 10
    assert said[:4] == [("target", 0), ("target", 4), ("target", 8), ("target", 10)]


def test_what_is_drawn_already_is_not_drawn_again(
    checkpoint_folder: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    first, _ = _evaluate(checkpoint_folder, tiny_folder, tmp_path)
    files = sorted(tmp_path.rglob("*.safetensors"))
    before = [path.stat().st_mtime_ns for path in files]
    files[0].unlink()  # as an evaluation that was interrupted there
    again, _ = _evaluate(checkpoint_folder, tiny_folder, tmp_path)
    assert again == first
    after = [path.stat().st_mtime_ns for path in files]
    assert after[0] != before[0]
    assert after[1:] == before[1:]


def test_the_two_executions_are_two_subjects(
    checkpoint_folder: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    _evaluate(checkpoint_folder, tiny_folder, tmp_path)
    found, _ = _evaluate(checkpoint_folder, tiny_folder, tmp_path, simulate=True)
    assert found["psnr_db"].execution == "simulated"
    # One baseline, and the checkpoint twice.
    assert len(list(tmp_path.iterdir())) == 3


def test_a_model_is_scored_alone(tiny_folder: Path, tmp_path: Path) -> None:
    found, _ = _evaluate(tiny_folder, None, tmp_path)
    assert found["cs"].execution == "full-precision"
    assert found["cs"].baseline is None


def test_another_model_is_no_baseline(checkpoint_folder: Path, tmp_path: Path) -> None:
    other = save_tiny_pipeline(tmp_path / "other", seed=5)
    with pytest.raises(ModelNotFound, match="other weights"):
        _evaluate(checkpoint_folder, other, tmp_path / "work")


def test_what_cannot_be_scored_is_refused_before_an_image_is_drawn(
    checkpoint_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(EvaluationFailed, match="windows of 11"):
        evaluate_folder(
            load_source(checkpoint_folder, device=CPU),
            None,
            _plan(metrics=("ssim",), extractor=None),
            extractor=None,
            reference=None,
            work=tmp_path,
            device=CPU,
            progress=lambda *_: None,
        )
    assert not list(tmp_path.iterdir())

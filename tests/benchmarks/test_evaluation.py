import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import evaluation_fidelity
from benchmarks.evaluation import main
from benchmarks.evaluation_engine import Engine, EngineUnavailable
from benchmarks.evaluation_engines import (
    BFLOAT16,
    ENGINES,
    FLOAT32,
    INTERVAL,
    PYTORCH_FID,
    SCORE,
    TORCH_FIDELITY,
    WEIGHTS,
    save_weights,
    steps,
)
from benchmarks.evaluation_features import (
    Runner,
    Scorer,
    Work,
    feature_rows,
    measure_features,
    measure_scores,
    score_rows,
)
from benchmarks.evaluation_peak import Peak, measure_peak
from benchmarks.evaluation_pytorch_fid import features as pytorch_fid_features
from benchmarks.evaluation_scoring import score_folder, write_inputs
from benchmarks.evaluation_workload import random_features, random_images
from tcaq_core.evaluation.frechet import Gaussian, frechet_distance
from tcaq_core.evaluation.inception import InceptionV3
from tcaq_core.evaluation.moments import FeatureMoments
from tests.extractors import NAME, REFERENCE, save_evaluation_directory
from tests.tiny import save_tiny_pipeline

ROOT = Path(__file__).parents[2]
FIXED = {"engine", "images_per_second", "peak_bytes", "images"}
PEAK = Peak(peak_bytes=5, load_peak_bytes=7, floor_bytes=100, seconds=1.0)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.evaluation", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module", name="work")
def make_work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    folder = tmp_path_factory.mktemp("weights")
    save_weights(folder, seed=0)
    return Work(
        folder=folder,
        num_images=2,
        rounds=2,
        threads=1,
        score_images=100,
        score_rounds=1,
        width=32,
    )


@pytest.fixture(scope="module", name="runners")
def run_engines(work: Work) -> list[Runner]:
    missing: dict[str, str] = {}
    found = measure_features(work, missing)
    if TORCH_FIDELITY in missing:
        pytest.skip(missing[TORCH_FIDELITY])
    return found


def test_every_engine_has_its_turn_on_the_same_images(
    runners: list[Runner], work: Work
) -> None:
    peaks = dict.fromkeys(ENGINES, PEAK)
    rows = feature_rows(runners, peaks, work)
    assert [row["engine"] for row in rows] == list(ENGINES)
    for row, runner in zip(rows, runners, strict=True):
        assert set(row) >= FIXED
        assert (row["images"], row["peak_bytes"]) == (2, 5)
        assert len(runner.seconds) == 2
        assert row["images_per_second"] == pytest.approx(2 / (sum(runner.seconds) / 2))
        assert row["speedup"][TORCH_FIDELITY][0] == pytest.approx(
            row["images_per_second"] / rows[0]["images_per_second"]
        )


def test_all_engines_compute_the_same_features(runners: list[Runner]) -> None:
    theirs, plain, ours, half = (runner.features for runner in runners)
    assert theirs.shape == (2, 2048)
    assert theirs.std() > 0.05
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    # Eight bits of precision, and another resize.
    for other, error in ((half, 0.05), (plain, 0.5)):
        assert 0 < (other - theirs).norm() / theirs.norm() < error


def test_pytorch_fid_s_graph_is_ours_where_nothing_is_resized(work: Work) -> None:
    network = InceptionV3()
    network.load_state_dict(load_file(work.folder / WEIGHTS))
    network.eval().requires_grad_(requires_grad=False)
    x = (random_images(1, seed=3, size=299).permute(0, 3, 1, 2).float() - 128) / 128
    expected = network(x).pooled
    torch.testing.assert_close(
        pytorch_fid_features(network, x), expected, rtol=1e-5, atol=1e-5
    )


def test_all_packages_give_the_same_score(work: Work) -> None:
    missing: dict[str, str] = {}
    scorers = measure_scores(work, ENGINES, missing)
    if missing:
        pytest.skip(str(missing))
    labels = [scorer.step.label for scorer in scorers]
    assert labels == [
        f"{TORCH_FIDELITY} {SCORE}",
        f"{PYTORCH_FID} {SCORE}",
        f"{FLOAT32} {SCORE}",
        f"{FLOAT32} {INTERVAL}",
        f"{BFLOAT16} {SCORE}",
    ]
    values = [scorer.value for scorer in scorers]
    assert values[0] > 0.01
    assert values == pytest.approx([values[0]] * len(values), rel=1e-4)


def _engine(name: str) -> Engine:
    return Engine(name, lambda images: images, note="")


def test_a_whole_score_is_features_and_a_frechet_step(work: Work) -> None:
    ones = torch.ones(1, 1)
    slow = Runner(_engine(TORCH_FIDELITY), ones, [2.0, 4.0, 6.0])
    fast = Runner(_engine(FLOAT32), ones, [1.0, 1.0, 2.0])
    both = [slow, fast]
    peaks = {TORCH_FIDELITY: PEAK, FLOAT32: replace(PEAK, peak_bytes=9)}
    rows = feature_rows(both, peaks, work)
    assert rows[1]["images_per_second"] == 2.0
    assert rows[1]["speedup"] == {TORCH_FIDELITY: (4.0, 2.5, 3.5)}
    reference = random_features(40, width=4, seed=1)
    scorers = [
        Scorer(steps(name, reference)[0], 1.5, [seconds])
        for name, seconds in ((TORCH_FIDELITY, 10.0), (FLOAT32, 5.0))
    ]
    labels = [scorer.step.label for scorer in scorers]
    found = score_rows(
        scorers,
        dict.fromkeys(labels, PEAK),
        {row["engine"]: row for row in rows},
        work,
    )
    # 100 images at 0.5 a second, and 10 seconds; at 2 a second, and 5.
    assert [row["seconds"] for row in found] == [210.0, 55.0]
    assert found[1]["speedup"] == {TORCH_FIDELITY: 210 / 55}
    assert [row["peak_bytes"] for row in found] == [5, 9]
    assert all(set(row) >= FIXED for row in found)


def test_without_torch_fidelity_it_is_left_out_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in sys.modules if name.startswith("torch_fidelity")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(EngineUnavailable, match="--no-deps torch-fidelity"):
        evaluation_fidelity.build_torch_fidelity(tmp_path / "weights.pth")
    assert "torchvision" not in sys.modules


def test_without_scipy_its_score_is_left_out(
    monkeypatch: pytest.MonkeyPatch, work: Work
) -> None:
    monkeypatch.setitem(sys.modules, "scipy.linalg", None)
    missing: dict[str, str] = {}
    scorers = measure_scores(work, [PYTORCH_FID, BFLOAT16], missing)
    assert [scorer.step.engine for scorer in scorers] == [BFLOAT16]
    assert missing == {
        f"{PYTORCH_FID} {SCORE}": "scipy is not installed: pip install scipy"
    }


def test_memory_is_measured_in_a_process_of_its_own(work: Work) -> None:
    options = (FLOAT32, work.folder, "--images", "1")
    found = measure_peak("extract", *options, threads=1)
    # 24 million weights of four bytes.
    assert 90e6 < found.peak_bytes <= found.load_peak_bytes < 2e9
    assert found.floor_bytes > 50e6


def test_a_score_from_files_is_that_of_their_features(tmp_path: Path) -> None:
    folder = write_inputs(tmp_path / "in", num_images=600, width=16, num_reference=100)
    parts = [load_file(path) for path in sorted(folder.glob("0*.safetensors"))]
    assert [len(part["pooled"]) for part in parts] == [250, 250, 100]
    known = load_file(folder / "reference.safetensors")
    reference = Gaussian(known["pooled.mean"], known["pooled.covariance"], 100)
    pooled = torch.cat([part["pooled"] for part in parts])
    own = Gaussian.of(FeatureMoments.of(pooled))
    (record,) = score_folder(folder, metrics=("fd",))
    assert record.n_generated == 600
    assert record.value == pytest.approx(frechet_distance(own, reference), rel=1e-9)
    assert record.value != 0


def test_memory_rows_are_named_by_their_images() -> None:
    done = run(
        *("--json", "--skip", "features,sharding"),
        *("--memory-images", "100", "--memory-width", "16"),
    )
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    assert [row["engine"] for row in rows] == ["score-100", "reference-100"]
    for row in rows:
        assert set(row) >= FIXED
        assert row["images"] == 100
        assert 0 <= row["peak_bytes"] < row["floor_bytes"]
        assert row["images_per_second"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--skip", "nope"), "features, memory, sharding"),
        (("--score-images", "2048"), "--score-images must be more than 2048"),
        (("--memory-images", "9"), "--memory-images must be more than"),
        (("--rounds", "0"), "--rounds must be at least 1"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(
    arguments: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluation", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.faults
def test_the_score_is_the_same_whoever_worked(tmp_path: Path) -> None:
    save_tiny_pipeline(tmp_path / "models" / "tiny", seed=1)
    save_evaluation_directory(tmp_path / "evaluation")
    done = run(
        *("--json", "--skip", "features,memory", "--model", "tiny"),
        *("--models", tmp_path / "models", "--evaluation", tmp_path / "evaluation"),
        *("--extractor", NAME, "--reference", REFERENCE),
        *("--sharding-images", "128", "--sharding-steps", "50", "--shard-images", "8"),
    )
    assert done.returncode == 0, done.stderr
    row, *simulated = json.loads(done.stdout)
    assert row["engine"] == "sharding"
    assert row["identical"] is True
    assert row["score_1_worker"] == row["score_2_workers"] == row["score_one_killed"]
    assert row["workers_that_made_shards"]["1_worker"] == 1
    assert row["workers_that_made_shards"]["2_workers"] == 2
    assert [one["workers"] for one in simulated][-1] == 100
    rates = [one["images_per_second"] for one in simulated]
    assert rates == sorted(rates)

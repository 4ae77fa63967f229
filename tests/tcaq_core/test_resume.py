"""A job that is stopped anywhere ends with the bytes of one that nothing disturbed."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tcaq_core.diffusion import load_pipeline
from tcaq_core.errors import Interrupted, OutOfMemory, ResumeRefused
from tcaq_core.journal import FolderJournal
from tcaq_core.quantization import Progress, quantize
from tcaq_core.recipe import (
    DAQ,
    TCR,
    Allocate,
    Correct,
    Modulate,
    Recipe,
    SecondOrder,
    Select,
    Split,
    Temporal,
)
from tcaq_core.workspace import Workspace
from tests.tcaq_core.resumable import (
    RANGES,
    ROUNDS,
    quantize_once,
    recipe_of,
    save_small_pipeline,
)

# What the largest block's inputs and target take.
BLOCK_BYTES = 25_088

PAPER = recipe_of(TCR(), RANGES, DAQ(), ROUNDS)
LEARNING = {"drop": 0.5, "learn_ranges": "joint", "learn_biases": True}
EVERYTHING = recipe_of(
    Select(rule="density_variety", num_inputs=3),
    Allocate(num_inputs=2),
    Split(),
    TCR(strength="search"),
    RANGES.model_copy(update={"timesteps": "step"}),
    Temporal(iterations=3),
    DAQ(),
    SecondOrder(num_inputs=4),
    ROUNDS.model_copy(update=LEARNING),
    Modulate(),
    Correct(num_samples=2),
)
RECIPES = {
    "the paper's passes": PAPER,
    "every pass": EVERYTHING,
    "no warm start": recipe_of(RANGES, ROUNDS.model_copy(update={"warm_start": False})),
}
LAST = "par/round-1/conv_out"


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a pipeline of a dozen blocks: each is a place to stop at."""
    return save_small_pipeline(tmp_path_factory.mktemp("models") / "small")


def ignore(_stage: str, _done: int, _total: int) -> None:
    pass


@pytest.fixture(scope="module")
def undisturbed(
    small_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Recipe], dict[str, str]]:
    """Return the hashes of a recipe's checkpoint, from a run without a journal."""
    known: dict[str, dict[str, str]] = {}

    def hashes(recipe: Recipe) -> dict[str, str]:
        key = recipe.digest()
        if key not in known:
            out = tmp_path_factory.mktemp("undisturbed")
            known[key] = quantize_once(small_folder, out, recipe, progress=ignore)
        return known[key]

    return hashes


def entries(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*.safetensors"))
    }


@pytest.fixture(scope="module", params=RECIPES)
def stops(
    request: pytest.FixtureRequest,
    small_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Recipe, list[Path]]:
    """Return the journal as it was at each progress call, without repetitions."""
    recipe, folder = RECIPES[request.param], tmp_path_factory.mktemp("stops")
    journal, states = FolderJournal(folder / "journal", "f"), [folder / "state-0"]
    states[0].mkdir()

    def keep(_stage: str, _done: int, _total: int) -> None:
        if list(entries(states[-1])) != list(entries(journal.folder)):
            states.append(folder / f"state-{len(states)}")
            shutil.copytree(journal.folder, states[-1])

    quantize_once(small_folder, folder, recipe, progress=keep, journal=journal)
    return recipe, states


def test_a_job_stopped_at_any_progress_call_ends_with_the_same_bytes(
    stops: tuple[Recipe, list[Path]],
    undisturbed: Callable[[Recipe], dict[str, str]],
    small_folder: Path,
    tmp_path: Path,
) -> None:
    """What a stopped attempt leaves is its journal, so each journal stands for all
    the calls between two entries."""
    recipe, states = stops
    assert len(states) > 20
    # All of them for the paper's passes, a choice for the others.
    for i, state in enumerate(states[:: 1 if recipe == PAPER else 3]):
        found = quantize_once(
            small_folder,
            tmp_path / f"out-{i}",
            recipe,
            progress=ignore,
            journal=FolderJournal(state, "f"),
        )
        assert found == undisturbed(recipe), sorted(entries(state))[-1:]


def test_a_job_interrupted_after_every_single_step_still_gets_there(
    undisturbed: Callable[[Recipe], dict[str, str]], small_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "journal"

    def stop_after_progress() -> Progress:
        before = list(entries(folder))

        def stop(_stage: str, _done: int, _total: int) -> None:
            if list(entries(folder)) != before:
                raise Interrupted("stop", hint="asked")

        return stop

    attempts = 0
    while True:
        attempts += 1
        stood: list[str] = []
        journal = FolderJournal(folder, "f", stood.append)
        try:
            found = quantize_once(
                small_folder,
                tmp_path / "out",
                PAPER,
                progress=stop_after_progress(),
                journal=journal,
            )
            break
        except Interrupted:
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert found == undisturbed(PAPER)
    # Calibration, four passes, two rounds of blocks, one new set of trajectories.
    assert attempts == len(entries(folder)) + 1
    assert stood[-1] == "par"


def test_a_resumed_attempt_repeats_nothing_that_was_finished(
    small_folder: Path, tmp_path: Path
) -> None:
    journal = FolderJournal(tmp_path / "journal", "f")
    quantize_once(small_folder, tmp_path / "a", PAPER, progress=ignore, journal=journal)
    (journal.folder / "par.safetensors").unlink()
    (journal.folder / f"{LAST}.safetensors").unlink()
    seen: list[tuple[str, int, int]] = []
    stood: list[str] = []
    quantize_once(
        small_folder,
        tmp_path / "b",
        PAPER,
        progress=lambda *at: seen.append(at),
        journal=FolderJournal(journal.folder, "f", stood.append),
    )
    for stage in ("tcr", "fit_ranges", "daq"):
        assert [at for at in seen if at[0] == stage] == [(stage, 0, 1), (stage, 1, 1)]
    blocks = [(done, total) for stage, done, total in seen if stage == "par"][1:]
    total = blocks[0][1]
    # The first round at one stroke; of the second, only its last block is new.
    assert {done for done, of in blocks if of == total} == {
        *range(total // 2, total + 1)
    }
    assert stood[-1].startswith("par/round-1/")


def test_the_report_is_the_undisturbed_one(small_folder: Path, tmp_path: Path) -> None:
    journal = FolderJournal(tmp_path, "f")
    reports = []
    for _ in range(2):
        pipeline = load_pipeline(small_folder, device=torch.device("cpu"))
        result = quantize(pipeline, PAPER, progress=ignore, journal=journal)
        reports.append(json.loads(json.dumps(result.report)))
    assert reports[0] == reports[1]
    assert {"fit_ranges", "daq", "par"} <= set(reports[0])


def test_a_journal_of_another_run_is_refused_and_nothing_of_it_is_used(
    small_folder: Path, tmp_path: Path
) -> None:
    quantize_once(
        small_folder,
        tmp_path / "a",
        recipe_of(RANGES),
        progress=ignore,
        journal=FolderJournal(tmp_path / "journal", "one"),
    )
    before = entries(tmp_path / "journal")
    with pytest.raises(ResumeRefused):
        quantize_once(
            small_folder,
            tmp_path / "b",
            recipe_of(RANGES),
            progress=ignore,
            journal=FolderJournal(tmp_path / "journal", "another"),
        )
    assert entries(tmp_path / "journal") == before


def test_other_calibration_data_makes_every_later_entry_another(
    small_folder: Path, tmp_path: Path
) -> None:
    journal = FolderJournal(tmp_path / "journal", "f")
    recipe = recipe_of(RANGES)
    quantize_once(
        small_folder, tmp_path / "a", recipe, progress=ignore, journal=journal
    )
    entry = journal.read("calibrate")
    assert entry is not None
    entry.tensors["x_t"][0, 0, 0, 0] += 1
    journal.write("calibrate", entry)
    with pytest.raises(ResumeRefused, match="fit_ranges"):
        quantize_once(
            small_folder, tmp_path / "b", recipe, progress=ignore, journal=journal
        )


@pytest.mark.parametrize("budget", [BLOCK_BYTES, 100_000])
def test_the_memory_budget_changes_no_byte(
    budget: int,
    undisturbed: Callable[[Recipe], dict[str, str]],
    small_folder: Path,
    tmp_path: Path,
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    found = quantize_once(
        small_folder,
        tmp_path / "out",
        PAPER,
        progress=ignore,
        workspace=Workspace(budget, scratch=scratch),
    )
    assert found == undisturbed(PAPER)
    assert list(scratch.iterdir()) == []


def test_a_budget_smaller_than_one_block_keeps_what_is_finished(
    undisturbed: Callable[[Recipe], dict[str, str]], small_folder: Path, tmp_path: Path
) -> None:
    journal = FolderJournal(tmp_path / "journal", "f")
    with pytest.raises(OutOfMemory, match="The inputs and the target of block") as at:
        quantize_once(
            small_folder,
            tmp_path / "a",
            PAPER,
            progress=ignore,
            journal=journal,
            workspace=Workspace(BLOCK_BYTES - 1),
        )
    assert "TCAQ_MEMORY_BUDGET_BYTES" in at.value.hint
    assert journal.has("daq")
    assert journal.has("par/round-0/time_embedding")
    assert f"take {BLOCK_BYTES} bytes" in str(at.value)
    found = quantize_once(
        small_folder, tmp_path / "b", PAPER, progress=ignore, journal=journal
    )
    assert found == undisturbed(PAPER)


def test_a_job_survives_kill_9_at_random_moments(
    undisturbed: Callable[[Recipe], dict[str, str]], small_folder: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.tcaq_core.resumable"]
    command += [str(small_folder), str(tmp_path), PAPER.model_dump_json()]
    done = subprocess.run(command, capture_output=True, check=True, timeout=300)
    report = json.loads(done.stdout)
    assert report["kills"] >= 2
    assert report["hashes"] == undisturbed(PAPER)

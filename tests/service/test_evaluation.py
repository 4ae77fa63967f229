from dataclasses import replace
from pathlib import Path

import pytest

from jobs.artifacts import LocalStore, StoredArtifact
from jobs.settings import Settings
from service.errors import FieldRejected, RequestInvalid
from service.evaluation import alone, check_image_size, look_up, plan_of
from tcaq_core.evaluation.spec import Evaluation
from tests.service.evaluations import QUICK

ASKED = Evaluation.model_validate(QUICK)


class ChangedUnderway(LocalStore):
    """A store that reads a file when somebody has just changed it."""

    def put(self, source: Path, *, media_type: str) -> StoredArtifact:
        stored = super().put(source, media_type=media_type)
        return replace(stored, sha256="0" * 64)


class PutOnce(LocalStore):
    """A store in which each file may be put once."""

    def put(self, source: Path, *, media_type: str) -> StoredArtifact:
        stored = super().put(source, media_type=media_type)
        assert stored.sha256 not in self.seen
        self.seen.add(stored.sha256)
        return stored

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.seen: set[str] = set()


def test_a_plan_is_the_same_for_the_same_files(
    settings: Settings, tmp_path: Path
) -> None:
    store = LocalStore(tmp_path / "store")
    first, second = (plan_of(ASKED, settings, store) for _ in range(2))
    assert first.digest() == second.digest()
    assert first == look_up(ASKED, settings).plan


def test_a_reference_that_the_store_has_is_not_copied_again(
    settings: Settings, tmp_path: Path
) -> None:
    store = PutOnce(tmp_path / "store")
    for _ in range(2):
        plan_of(ASKED, settings, store)
    assert len(store.seen) == 1


def test_a_reference_that_changes_while_it_is_copied_is_refused(
    settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(FieldRejected, match="changed") as caught:
        plan_of(ASKED, settings, ChangedUnderway(tmp_path / "store"))
    assert caught.value.errors[0].pointer == "/evaluation/reference"
    assert caught.value.hint == "Send the request again."


def test_a_plan_without_statistics_stores_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    asked = ASKED.model_copy(update={"metrics": ("psnr_db", "feature_distance")})
    plan = plan_of(asked, settings, LocalStore(tmp_path / "store"))
    assert plan.reference is None
    assert plan.extractor is not None
    assert not (tmp_path / "store").exists()


def test_a_model_alone_is_measured_without_what_compares() -> None:
    assert alone(ASKED).wanted == ("fd",)
    assert not alone(ASKED).baseline
    kept = alone(ASKED.model_copy(update={"seed": 5}))
    assert (kept.seed, kept.num_images) == (5, 100)
    with pytest.raises(RequestInvalid):
        alone(ASKED.model_copy(update={"metrics": ("fd", "ssim")}))


def test_the_size_of_a_model_that_is_not_here_is_left_to_the_worker(
    settings: Settings,
) -> None:
    plan = look_up(ASKED, settings).plan.model_copy(update={"image_size": 64})
    for elsewhere in ("owner/name@" + "0" * 40, "sha256:" + "0" * 64, "gone"):
        check_image_size(plan, elsewhere, settings)
    with pytest.raises(FieldRejected):
        check_image_size(plan, "tiny", settings)

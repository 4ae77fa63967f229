"""The reference that the project ships fits the network that it ships."""

import hashlib
from pathlib import Path

import pytest

from tcaq_core.evaluation.check import check_plan
from tcaq_core.evaluation.extractor_folder import find_extractor
from tcaq_core.evaluation.images import open_images
from tcaq_core.evaluation.plan import resolve_evaluation
from tcaq_core.evaluation.protocols import PROTOCOLS
from tcaq_core.evaluation.reference import load_reference
from tcaq_core.evaluation.reference_file import find_reference, read_reference
from tcaq_core.evaluation.spec import Evaluation

ROOT = Path(__file__).resolve().parents[3]
EVALUATION = ROOT / "evaluation"
CIFAR10 = ROOT.parent / "shared" / "data" / "cifar10"


def shipped() -> Path:
    return find_reference("cifar10-train", directory=EVALUATION)


def test_the_quick_protocol_can_be_asked_for_as_it_is() -> None:
    extractor = find_extractor(
        PROTOCOLS["quick"].extractor,
        directory=EVALUATION / "extractors",
        inception_weights=None,
        dtype="float32",
    )
    reference = read_reference(shipped())
    for asked in (Evaluation(), Evaluation(metrics=("fd", "sfd", "cs"))):
        check_plan(resolve_evaluation(asked, extractor=extractor, reference=reference))


def test_it_is_of_all_training_images() -> None:
    reference = load_reference(shipped())
    assert (reference.used.info.n, reference.used.info.image_size) == (50_000, (32, 32))
    # No feature is constant: the covariance has full rank.
    assert float(reference.pooled.covariance.diagonal().min()) > 0
    assert reference.spatial is not None


def test_it_is_of_the_images_that_it_says(tmp_path: Path) -> None:
    files = sorted(CIFAR10.glob("train-*.npz"))
    if not files:
        pytest.skip("shared/data/cifar10 is not here")
    for file in files:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    digest = hashlib.sha256()
    for batch in open_images(tmp_path).batches(1000):
        digest.update(batch.numpy().tobytes())
    assert digest.hexdigest() == load_reference(shipped()).used.info.images_sha256

import math
from itertools import pairwise

import pytest
import torch

from tcaq_core.errors import EvaluationFailed
from tcaq_core.evaluation.classifier_score import (
    ClassifierScore,
    ClassifierSums,
    merge_sums,
)


def logits(n: int = 57, num_classes: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(n, num_classes, generator=generator)


def scored(x: torch.Tensor, *edges: int, num_splits: int = 10) -> ClassifierScore:
    """Score images in shards that end at `edges`."""
    shards = [
        ClassifierSums.of(x[a:b], first=a, num_images=len(x), num_splits=num_splits)
        for a, b in pairwise((0, *edges, len(x)))
    ]
    return merge_sums(iter(shards)).score()


def test_sure_and_balanced_predictions_score_the_number_of_classes() -> None:
    sure = 1e4 * torch.eye(5).repeat(4, 1)
    found = scored(sure, num_splits=4)
    assert found.splits == pytest.approx([5.0] * 4, rel=1e-12)
    assert found.std == pytest.approx(0, abs=1e-12)


def test_predictions_that_are_all_alike_score_one() -> None:
    alike = logits()[:1].repeat(20, 1)
    assert scored(alike).mean == pytest.approx(1.0, rel=1e-12)


def test_a_class_that_is_never_predicted_counts_nothing() -> None:
    x = torch.tensor([[1e4, 0.0, -1e4], [0.0, 1e4, -1e4]])
    assert scored(x, num_splits=1).mean == pytest.approx(2.0, rel=1e-12)


def test_it_is_the_definition_split_by_split() -> None:
    x = logits(23)
    p = x.double().softmax(1)
    expected = []
    for part in (p[:7], p[7:15], p[15:]):
        marginal = part.mean(0)
        kl = (part * (part / marginal).log()).sum(1)
        expected.append(math.exp(float(kl.mean())))
    found = scored(x, num_splits=3)
    assert found.splits == pytest.approx(expected, rel=1e-12)
    mean = sum(expected) / 3
    assert found.mean == pytest.approx(mean, rel=1e-12)
    variance = sum((s - mean) ** 2 for s in expected) / 3
    assert found.std == pytest.approx(math.sqrt(variance), rel=1e-9)


@pytest.mark.parametrize("edges", [(1,), (5, 6), (19, 20, 40), tuple(range(1, 57))])
def test_shards_do_not_move_the_score(edges: tuple[int, ...]) -> None:
    whole, found = scored(logits()), scored(logits(), *edges)
    assert found.splits == pytest.approx(whole.splits, rel=1e-13)


def test_the_same_shards_give_the_same_bits() -> None:
    assert scored(logits(), 20, 40) == scored(logits(), 20, 40)


def test_missing_and_repeated_shards_are_noticed() -> None:
    x = logits()
    part = ClassifierSums.of(x[:40], first=0, num_images=57)
    for sums in (part, part + part):
        with pytest.raises(EvaluationFailed, match="some are missing"):
            sums.score()


def test_bad_input_is_refused() -> None:
    with pytest.raises(EvaluationFailed, match="9 images cannot be cut into 10"):
        scored(logits(9))
    with pytest.raises(EvaluationFailed, match="ends at image 60 of 57"):
        ClassifierSums.of(logits(20), first=40, num_images=57)
    x = logits()
    x[3, 1] = torch.inf
    with pytest.raises(EvaluationFailed, match="1 of 57"):
        scored(x)
    with pytest.raises(EvaluationFailed, match="no sums"):
        merge_sums([])
    a = ClassifierSums.of(logits(), first=0, num_images=57)
    b = ClassifierSums.of(logits(num_classes=3), first=0, num_images=57)
    with pytest.raises(EvaluationFailed, match="different classes"):
        _ = a + b

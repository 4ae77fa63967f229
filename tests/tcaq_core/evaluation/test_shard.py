import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load

from tcaq_core.diffusion import Pipeline
from tcaq_core.errors import EvaluationFailed
from tcaq_core.evaluation.plan import EvaluationPlan
from tcaq_core.evaluation.shard import Subject, make_shard
from tests.tcaq_core.evaluation.plans import RandomNetwork, make_plan


def _nothing() -> None:
    pass


def _shard(pipeline: Pipeline, plan: EvaluationPlan, number: int) -> bytes:
    network = None if plan.extractor is None else RandomNetwork()
    return make_shard(pipeline, network, plan, number, tick=_nothing)


def _subject(folder: Path, pipeline: Pipeline, plan: EvaluationPlan) -> Subject:
    paths = []
    for number in range(plan.num_shards):
        paths.append(folder / f"{number}.safetensors")
        paths[-1].write_bytes(_shard(pipeline, plan, number))
    return Subject(tuple(paths))


def test_the_same_shard_is_the_same_bytes(pipeline: Pipeline) -> None:
    plan = make_plan()
    assert _shard(pipeline, plan, 1) == _shard(pipeline, plan, 1)
    assert _shard(pipeline, plan, 1) != _shard(pipeline, plan, 0)


def test_shards_share_out_the_images_in_order() -> None:
    plan = make_plan()
    assert [plan.images_of(number) for number in range(plan.num_shards)] == [
        range(4),
        range(4, 8),
        range(8, 10),
    ]


def test_a_shard_holds_what_the_metrics_need_and_no_more(pipeline: Pipeline) -> None:
    plain = load(_shard(pipeline, make_plan(metrics=("fd",)), 0))
    assert set(plain) == {"image_sha256", "pixels", "pooled"}
    rich = load(_shard(pipeline, make_plan(metrics=("sfd", "cs")), 0))
    assert set(rich) == {"image_sha256", "pixels", "pooled", "spatial", "logits"}
    bare = load(_shard(pipeline, make_plan(extractor=None, metrics=("ssim",)), 0))
    assert set(bare) == {"image_sha256", "pixels"}


def test_pixels_are_kept_of_the_images_that_are_paired(
    tmp_path: Path, pipeline: Pipeline
) -> None:
    plan = make_plan()
    subject = _subject(tmp_path, pipeline, plan)
    sizes = [len(subject.tensor(number, "pixels")) for number in range(3)]
    assert sizes == [4, 2, 0]
    assert [len(found) for found in subject.paired_pixels()] == [4, 2]
    alone = load(_shard(pipeline, make_plan(baseline=False), 0))
    assert len(alone["pixels"]) == 0


def test_features_are_read_across_shards(tmp_path: Path, pipeline: Pipeline) -> None:
    subject = _subject(tmp_path, pipeline, make_plan())
    every = torch.cat([subject.tensor(number, "pooled") for number in range(3)])
    wanted = torch.tensor([9, 3, 4, 0])
    assert torch.equal(subject.features("pooled").rows(wanted), every[wanted])


def test_the_manifest_is_that_of_the_images_whatever_the_shards(
    tmp_path: Path, pipeline: Pipeline
) -> None:
    kept: dict[int, bytes] = {}

    def keep(index: int, pixels: np.ndarray) -> None:
        kept[index] = pixels.tobytes()

    plan = make_plan()
    for number in range(plan.num_shards):
        make_shard(pipeline, None, plan, number, tick=_nothing, keep=keep)
    assert list(kept) == list(range(10))
    expected = hashlib.sha256(
        b"".join(hashlib.sha256(pixels).digest() for pixels in kept.values())
    ).hexdigest()
    for size in (4, 6):
        folder = tmp_path / str(size)
        folder.mkdir()
        subject = _subject(folder, pipeline, make_plan(shard_images=size))
        assert subject.manifest_sha256() == expected


def test_a_damaged_shard_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "0.safetensors"
    path.write_bytes(b"not a shard at all, but long enough to be read")
    with pytest.raises(EvaluationFailed, match="Shard 0"):
        Subject((path,)).tensor(0, "pooled")

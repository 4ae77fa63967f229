from typing import Any

import pytest
from pydantic import ValidationError

from tcaq_core.evaluation.protocols import INCEPTION, PROTOCOLS, SMALL_CLASSIFIER
from tcaq_core.evaluation.spec import Evaluation, Guards, resolve_evaluation
from tests.tcaq_core.evaluation.plans import RandomNetwork, make_plan


def _asked(**values: Any) -> Evaluation:  # noqa: ANN401 - a request's fields
    return Evaluation.model_validate(values)


def test_a_protocols_name_is_a_complete_request() -> None:
    asked = _asked(protocol="cifar10-50k")
    assert asked.network == INCEPTION
    assert asked.compared_with == "cifar10-train-inception"
    assert asked.wanted[:4] == ("fid", "sfid", "is", "kid")
    assert asked.wanted[4:] == ("psnr_db", "ssim", "feature_distance")


def test_without_a_baseline_nothing_is_paired() -> None:
    assert _asked(baseline=False).wanted == ("fd",)
    with pytest.raises(ValidationError, match="set baseline true"):
        _asked(baseline=False, metrics=["psnr_db"])


def test_another_networks_scores_have_other_names() -> None:
    other = _asked(protocol="cifar10-50k", extractor=SMALL_CLASSIFIER)
    assert other.wanted[:4] == ("fd", "sfd", "cs", "kd")
    real = _asked(protocol="quick", extractor=INCEPTION)
    assert real.wanted[0] == "fid"
    with pytest.raises(ValidationError, match=r"ask for \['fd'\]"):
        _asked(metrics=["fid"])
    with pytest.raises(ValidationError, match="names on another network"):
        _asked(protocol="cifar10-50k", metrics=["fd"])


def test_pixels_need_neither_network_nor_reference() -> None:
    asked = _asked(metrics=["ssim", "psnr_db"])
    assert asked.network is None
    assert asked.compared_with is None
    assert _asked(metrics=["feature_distance"]).compared_with is None
    assert _asked(metrics=["cs"]).compared_with is None


def test_a_metric_named_twice_is_computed_once() -> None:
    assert _asked(metrics=["fd", "fd"]).wanted == ("fd",)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"protocol": "best"}, "no protocol of that name"),
        ({"num_images": 1_000_000, "shard_images": 10}, "raise shard_images"),
        ({"num_images": 1}, "greater than or equal"),
        ({"extractor": "../weights"}, "pattern"),
        ({"seed": 2**62}, "less than"),
        ({"steps": 3}, "Extra inputs"),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        _asked(**values)


def test_the_plan_says_what_the_request_changed() -> None:
    network = RandomNetwork().info
    protocol = PROTOCOLS["quick"]
    same = {"num_images": protocol.num_images, "extractor": protocol.extractor}
    plan = resolve_evaluation(_asked(**same), extractor=network, reference=None)
    assert plan.changed == ()
    asked = _asked(num_images=100, num_steps=5, reference="mine")
    plan = resolve_evaluation(asked, extractor=network, reference=None)
    assert plan.changed == ("num_images", "num_steps", "reference")
    assert plan.sampling.num_steps == 5
    fast = network.model_copy(update={"dtype": "bfloat16"})
    asked = _asked(extractor_dtype="bfloat16")
    plan = resolve_evaluation(asked, extractor=fast, reference=None)
    assert plan.changed == ("extractor_dtype",)


def test_what_no_metric_uses_changes_nothing() -> None:
    asked = _asked(metrics=["psnr_db"], extractor="none", reference="none")
    plan = resolve_evaluation(asked, extractor=None, reference=None)
    assert plan.changed == ()


def test_no_image_is_drawn_that_nobody_looks_at() -> None:
    asked = _asked(metrics=["psnr_db"], paired_images=10)
    plan = resolve_evaluation(asked, extractor=None, reference=None)
    assert (plan.num_images, plan.paired_images) == (10, 10)
    asked = _asked(metrics=["psnr_db", "cs"], paired_images=10)
    network = RandomNetwork().info
    plan = resolve_evaluation(asked, extractor=network, reference=None)
    assert (plan.num_images, plan.paired_images) == (2000, 10)


@pytest.mark.parametrize(
    ("change", "shares"),
    [
        ({"reference": None, "protocol": "other"}, True),
        ({"metrics": ("fd",)}, True),
        ({"metrics": ("sfd",)}, False),
        ({"metrics": ("cs",)}, False),
        ({"seed": 4}, False),
        ({"batch_size": 5}, False),
        ({"num_images": 9}, False),
        ({"paired_images": 5}, False),
        ({"extractor": None}, False),
        ({"keep_images": True}, False),
    ],
)
def test_shards_are_shared_by_what_decides_their_bytes(
    change: dict[str, Any], *, shares: bool
) -> None:
    subject = {"model": "a"}
    own = make_plan().shard_set_digest(subject, "e")
    assert (make_plan(**change).shard_set_digest(subject, "e") == own) is shares
    assert make_plan().shard_set_digest({"model": "b"}, "e") != own
    assert make_plan().shard_set_digest(subject, "f") != own


def test_guards_guard_something() -> None:
    with pytest.raises(ValidationError, match="name a limit"):
        Guards()
    assert Guards(max_fid_increase=1, min_psnr_db=30).needs == {"fid", "psnr_db"}

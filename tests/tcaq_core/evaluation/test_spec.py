from typing import Any

import pytest
from pydantic import ValidationError

from tcaq_core.evaluation.protocols import INCEPTION, SMALL_CLASSIFIER
from tcaq_core.evaluation.spec import Evaluation, Guards


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


def test_guards_guard_something() -> None:
    with pytest.raises(ValidationError, match="name a limit"):
        Guards()
    assert Guards(max_fid_increase=1, min_psnr_db=30).needs == {"fid", "psnr_db"}

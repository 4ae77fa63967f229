from typing import Any

import pytest

from tcaq_core.evaluation.plan import resolve_evaluation
from tcaq_core.evaluation.protocols import PROTOCOLS
from tcaq_core.evaluation.spec import Evaluation
from tests.tcaq_core.evaluation.plans import RandomNetwork, make_plan


def _asked(**values: Any) -> Evaluation:  # noqa: ANN401 - a request's fields
    return Evaluation.model_validate(values)


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

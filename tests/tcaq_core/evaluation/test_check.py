import pytest

from tcaq_core.errors import EvaluationFailed, ReferenceUnusable
from tcaq_core.evaluation.check import check_model_size, check_plan
from tcaq_core.evaluation.classifier_score import NUM_SPLITS
from tcaq_core.evaluation.plan import EvaluationPlan
from tcaq_core.evaluation.precision_recall import NEIGHBOURS
from tcaq_core.evaluation.protocols import PROTOCOLS, Protocol, Sampling
from tcaq_core.evaluation.record import ExtractorInfo, ReferenceInfo, ReferenceUsed

NETWORK = ExtractorInfo(
    name="net",
    weights_sha256="a" * 64,
    layer="avgpool",
    num_features=64,
    num_spatial=448,
    num_classes=10,
    resize="none",
    image_size=32,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
OTHERS: dict[str, object] = {
    "name": "other",
    "weights_sha256": "b" * 64,
    "layer": "logits",
    "num_features": 65,
    "num_spatial": 0,
    "num_classes": 0,
    "resize": "tf1-bilinear-no-antialias",
    "image_size": None,
    "mean": (0.4, 0.5, 0.5),
    "std": (0.5, 0.5, 0.25),
    "dtype": "bfloat16",
}


def reference(**changes: object) -> ReferenceUsed:
    fields: dict[str, object] = {
        "name": "images",
        "n": 5000,
        "image_size": (32, 32),
        "images_sha256": "c" * 64,
        "extractor": NETWORK,
        "has_spatial": True,
        "has_features": True,
    }
    info = ReferenceInfo.model_validate(fields | changes)
    return ReferenceUsed(stats_sha256="d" * 64, info=info)


def plan(*metrics: str, **changes: object) -> EvaluationPlan:
    fields: dict[str, object] = {
        "protocol": "quick",
        "changed": (),
        "metrics": metrics,
        "sampling": Sampling(num_steps=50),
        "image_size": None,
        "num_images": 2000,
        "seed": 0,
        "baseline": True,
        "paired_images": 256,
        "batch_size": 50,
        "shard_images": 250,
        "keep_images": False,
        "extractor": NETWORK,
        "reference": reference(),
    }
    return EvaluationPlan.model_validate(fields | changes)


def without(**changes: object) -> ExtractorInfo:
    return NETWORK.model_copy(update=changes)


def test_a_plan_whose_parts_fit_is_let_through() -> None:
    check_plan(plan("fd", "sfd", "cs", "kd", "precision", "recall", "psnr_db"))
    check_plan(plan("fd", image_size=32))
    check_plan(plan("psnr_db", "ssim", extractor=None, reference=None))
    check_plan(plan("cs", "feature_distance", reference=None))
    bare = reference(has_features=False, has_spatial=False)
    check_plan(plan("fd", "cs", reference=bare))


def test_every_field_of_the_network_is_compared() -> None:
    assert OTHERS.keys() == ExtractorInfo.model_fields.keys()


@pytest.mark.parametrize("field", OTHERS)
def test_a_reference_of_another_network_is_refused_by_what_differs(field: str) -> None:
    other = reference(extractor=without(**{field: OTHERS[field]}))
    with pytest.raises(ReferenceUnusable) as caught:
        check_plan(plan("fd", reference=other))
    assert f"({field}: {OTHERS[field]} instead of" in caught.value.detail
    assert "tcaq reference" in caught.value.hint


@pytest.mark.parametrize("metric", ["kd", "kid", "precision", "recall"])
def test_per_image_metrics_need_the_reference_s_features(metric: str) -> None:
    with pytest.raises(ReferenceUnusable, match=f"{metric} need each image's"):
        check_plan(plan(metric, reference=reference(has_features=False)))


@pytest.mark.parametrize("metric", ["sfd", "sfid"])
def test_spatial_metrics_need_spatial_statistics(metric: str) -> None:
    with pytest.raises(ReferenceUnusable, match=f"{metric} need spatial"):
        check_plan(plan(metric, reference=reference(has_spatial=False)))
    flat = without(num_spatial=0)
    with pytest.raises(EvaluationFailed, match=f"{metric} need spatial"):
        check_plan(plan(metric, extractor=flat, reference=reference(extractor=flat)))


@pytest.mark.parametrize("metric", ["is", "cs"])
def test_a_classifier_score_needs_classes(metric: str) -> None:
    with pytest.raises(EvaluationFailed, match=f"{metric} need classes"):
        check_plan(plan(metric, extractor=without(num_classes=0), reference=None))


@pytest.mark.parametrize(
    ("metric", "needed"), [("fd", 65), ("fid", 65), ("sfd", 449), ("sfid", 449)]
)
def test_fewer_images_than_features_are_refused(metric: str, needed: int) -> None:
    check_plan(plan(metric, num_images=needed))
    with pytest.raises(EvaluationFailed) as caught:
        check_plan(plan(metric, num_images=needed - 1))
    assert f"At least {needed} images" in caught.value.hint


def test_other_metrics_take_fewer_images_than_features() -> None:
    check_plan(plan("kd", "cs", "feature_distance", num_images=10))


@pytest.mark.parametrize("metric", ["fd", "sfd", "kd", "precision", "recall"])
def test_a_metric_that_compares_needs_a_reference(metric: str) -> None:
    with pytest.raises(ReferenceUnusable, match=metric):
        check_plan(plan(metric, reference=None))


@pytest.mark.parametrize("metric", ["fd", "cs", "feature_distance"])
def test_a_metric_of_features_needs_a_network(metric: str) -> None:
    with pytest.raises(EvaluationFailed, match=f"{metric} need a feature network"):
        check_plan(plan(metric, "psnr_db", extractor=None, reference=None))


def test_the_protocol_s_size_must_be_the_network_s_where_nothing_is_resized() -> None:
    with pytest.raises(EvaluationFailed, match="draws 256 pixels a side; net takes 32"):
        check_plan(plan("cs", image_size=256, reference=None))
    resizing = without(resize="tf1-bilinear-no-antialias", image_size=None)
    check_plan(plan("cs", image_size=256, extractor=resizing, reference=None))


@pytest.mark.parametrize("size", [(64, 64), (32, 64)])
def test_a_reference_of_images_of_another_size_is_refused(
    size: tuple[int, int],
) -> None:
    with pytest.raises(ReferenceUnusable, match=f"of {size[1]} x {size[0]} images"):
        check_plan(plan("fd", image_size=32, reference=reference(image_size=size)))


def _draws(
    asked: EvaluationPlan, height: int, *, width: int | None = None, channels: int = 3
) -> None:
    check_model_size(asked, image_size=(height, width or height), channels=channels)


def test_a_model_of_another_size_is_refused() -> None:
    _draws(plan("fd", image_size=32), 32)
    _draws(plan("psnr_db", extractor=None, reference=None), 64)
    with pytest.raises(EvaluationFailed, match="the protocol asks for 32"):
        _draws(plan("fd", image_size=32), 64)
    with pytest.raises(EvaluationFailed, match="model draws 64 pixels a side; net"):
        _draws(plan("fd"), 64)
    resizing = without(resize="tf1-bilinear-no-antialias", image_size=None)
    other = reference(extractor=resizing)
    with pytest.raises(ReferenceUnusable, match="64 x 64 are drawn"):
        _draws(plan("fd", extractor=resizing, reference=other), 64)


def test_the_second_side_counts_too() -> None:
    bare = plan("psnr_db", extractor=None, reference=None)
    _draws(bare, 32, width=64)
    with pytest.raises(EvaluationFailed, match="the protocol asks for 32"):
        _draws(bare.model_copy(update={"image_size": 32}), 32, width=64)
    with pytest.raises(EvaluationFailed, match="model draws 64 pixels a side; net"):
        _draws(plan("fd"), 32, width=64)
    resizing = without(resize="tf1-bilinear-no-antialias", image_size=None)
    tall = reference(extractor=resizing, image_size=(64, 32))
    asked = plan("fd", extractor=resizing, reference=tall)
    _draws(asked, 64, width=32)
    with pytest.raises(ReferenceUnusable, match="32 x 64 images; 64 x 32 are drawn"):
        _draws(asked, 32, width=64)


def test_images_that_are_neither_gray_nor_colour_are_for_pixels_alone() -> None:
    _draws(plan("fd"), 32, channels=1)
    bare = plan("psnr_db", extractor=None, reference=None)
    _draws(bare, 32, channels=4)
    for asked in (plan("cs"), bare.model_copy(update={"keep_images": True})):
        with pytest.raises(EvaluationFailed, match="4 channels"):
            _draws(asked, 32, channels=4)


def test_images_smaller_than_ssims_window_are_refused() -> None:
    asked = plan("ssim", extractor=None, reference=None)
    _draws(asked, 11)
    for sides in ((10, 10), (16, 10)):
        with pytest.raises(EvaluationFailed, match="windows of 11"):
            _draws(asked, sides[0], width=sides[1])


@pytest.mark.parametrize(
    ("metric", "needed"),
    [("cs", NUM_SPLITS), ("precision", NEIGHBOURS + 1), ("recall", NEIGHBOURS + 1)],
)
def test_too_few_images_for_a_metric_are_refused(metric: str, needed: int) -> None:
    check_plan(plan(metric, num_images=needed))
    with pytest.raises(EvaluationFailed, match=f"few for {metric}") as caught:
        check_plan(plan(metric, num_images=needed - 1))
    assert f"At least {needed} images" in caught.value.hint


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda p: p.name)
def test_a_protocol_that_draws_by_classes_or_prompts_is_not_drawn_without(
    protocol: Protocol,
) -> None:
    asked = plan("psnr_db", protocol=protocol.name, extractor=None, reference=None)
    if protocol.conditioning == "none":
        check_plan(asked)
        return
    with pytest.raises(EvaluationFailed, match=f"by {protocol.conditioning}"):
        check_plan(asked)

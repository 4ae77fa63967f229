"""Whether what is asked can be scored at all, before an image is drawn; torch-free."""

from typing import Final

from tcaq_core.errors import EvaluationFailed, ReferenceUnusable
from tcaq_core.evaluation.plan import EvaluationPlan
from tcaq_core.evaluation.protocols import PROTOCOLS
from tcaq_core.evaluation.record import ExtractorInfo, ReferenceInfo

WINDOW: Final = 11
"""Side of SSIM's window in pixels (Wang et al., 2004)."""
NEEDS_REFERENCE: Final = frozenset(
    {"fid", "fd", "sfid", "sfd", "kid", "kd", "precision", "recall"}
)
NEEDS_FEATURES: Final = frozenset({"kid", "kd", "precision", "recall"})
NEEDS_SPATIAL: Final = frozenset({"sfid", "sfd"})
NEEDS_CLASSES: Final = frozenset({"is", "cs"})
NEEDS_COVARIANCE: Final = frozenset({"fid", "fd"})
FEWEST: Final = dict.fromkeys(NEEDS_CLASSES, 10) | {"precision": 4, "recall": 4}
"""Images without which a metric has no value: an image a split; three others."""
NEEDS_NETWORK: Final = NEEDS_REFERENCE | NEEDS_CLASSES | {"feature_distance"}


def check_plan(plan: EvaluationPlan) -> None:
    """Refuse a plan whose parts do not fit together.

    Raises:
        ReferenceUnusable: no reference where a metric needs one; made with another
            network, of images of another size, or without what a metric needs.
        EvaluationFailed: the protocol draws by classes or prompts; the network gives
            less than a metric needs, takes another size, or there are too few images
            for its features.
    """
    wanted = frozenset(plan.metrics)
    _check_conditioning(plan)
    if plan.extractor is None:
        if wanted & NEEDS_NETWORK:
            raise EvaluationFailed(
                f"{_list(wanted & NEEDS_NETWORK)} need a feature network.",
                hint="Name an extractor.",
            )
        return
    _check_network(wanted, plan.extractor)
    _check_size(plan.extractor, plan.image_size, what="The protocol draws")
    _check_count(wanted, plan.extractor, plan.num_images)
    if wanted & NEEDS_REFERENCE:
        if plan.reference is None:
            raise ReferenceUnusable(
                f"{_list(wanted & NEEDS_REFERENCE)} compare with reference statistics.",
                hint="Name them; `tcaq reference` makes them.",
            )
        _check_reference(wanted, plan.extractor, plan.reference.info)
        if plan.image_size is not None:
            _check_sides(plan.reference.info, (plan.image_size, plan.image_size))


def check_model_size(
    plan: EvaluationPlan, *, image_size: tuple[int, int], channels: int
) -> None:
    """Refuse a model whose images are not those that a plan compares.

    `image_size` is their height and width.

    Raises:
        EvaluationFailed: the protocol or the network asks for another size; or they
            are neither gray nor colour where a network or a PNG wants that.
        ReferenceUnusable: the reference is of images of another size.
    """
    height, width = image_size
    for side in image_size:
        if plan.image_size not in {None, side}:
            raise EvaluationFailed(
                f"The model draws {side} pixels a side, the protocol asks for "
                f"{plan.image_size}.",
                hint="Name a protocol for this size, such as quick.",
            )
        if plan.extractor is not None:
            _check_size(plan.extractor, side, what="The model draws")
    if plan.reference is not None:
        _check_sides(plan.reference.info, image_size)
    if channels not in {1, 3} and (plan.extractor is not None or plan.keep_images):
        raise EvaluationFailed(
            f"The model draws images of {channels} channels.",
            hint="Feature networks and PNGs take gray (1) and colour (3) images; "
            "psnr_db and ssim take any.",
        )
    if "ssim" in plan.metrics and min(image_size) < WINDOW:
        raise EvaluationFailed(
            f"The model draws {height} x {width} pixels; ssim compares windows of "
            f"{WINDOW}.",
            hint="Leave ssim out of the metrics; psnr_db takes images of any size.",
        )


def _check_conditioning(plan: EvaluationPlan) -> None:
    protocol = PROTOCOLS.get(plan.protocol)
    if protocol is not None and (protocol.conditioning, protocol.guidance) != (
        "none",
        None,
    ):
        raise EvaluationFailed(
            f"{protocol.name} draws images by {protocol.conditioning}; this version "
            "samples unconditional models only.",
            hint="A score without them must not bear its name: take another protocol.",
        )


def _check_network(wanted: frozenset[str], extractor: ExtractorInfo) -> None:
    if wanted & NEEDS_CLASSES and extractor.num_classes == 0:
        raise EvaluationFailed(
            f"{_list(wanted & NEEDS_CLASSES)} need classes; {extractor.name} has none.",
            hint="Leave the metric out, or name a classifier.",
        )
    if wanted & NEEDS_SPATIAL and extractor.num_spatial == 0:
        raise EvaluationFailed(
            f"{_list(wanted & NEEDS_SPATIAL)} need spatial features; "
            f"{extractor.name} has none.",
            hint="Leave the metric out, or name another network.",
        )


def _check_size(extractor: ExtractorInfo, side: int | None, *, what: str) -> None:
    taken = extractor.image_size
    if extractor.resize == "none" and None not in {taken, side} and taken != side:
        raise EvaluationFailed(
            f"{what} {side} pixels a side; {extractor.name} takes {taken} and resizes "
            "nothing.",
            hint="Name another network, such as inception-v3-fid, which resizes.",
        )


def _check_count(
    wanted: frozenset[str], extractor: ExtractorInfo, num_images: int
) -> None:
    """Refuse a covariance that so few images leave singular, and fewer than few."""
    for metric in sorted(wanted & FEWEST.keys()):
        if num_images < FEWEST[metric]:
            raise EvaluationFailed(
                f"{num_images} images are too few for {metric}.",
                hint=f"At least {FEWEST[metric]} images are needed.",
            )
    widths = {
        "features": extractor.num_features if wanted & NEEDS_COVARIANCE else 0,
        "spatial features": extractor.num_spatial if wanted & NEEDS_SPATIAL else 0,
    }
    for what, width in widths.items():
        if num_images <= width:
            raise EvaluationFailed(
                f"{num_images} images leave the covariance of {width} {what} singular.",
                hint=f"At least {width + 1} images are needed; more is better.",
            )


def _check_reference(
    wanted: frozenset[str], extractor: ExtractorInfo, reference: ReferenceInfo
) -> None:
    theirs, ours = reference.extractor.model_dump(), extractor.model_dump()
    if differing := [field for field in ours if ours[field] != theirs[field]]:
        said = "; ".join(f"{f}: {theirs[f]} instead of {ours[f]}" for f in differing)
        raise ReferenceUnusable(
            f"The reference {reference.name} was made with another network ({said}).",
            hint="Make one with the network that is asked for: `tcaq reference IMAGES "
            f"--extractor {extractor.name} --dtype {extractor.dtype}`.",
        )
    if wanted & NEEDS_FEATURES and not reference.has_features:
        raise ReferenceUnusable(
            f"{_list(wanted & NEEDS_FEATURES)} need each image's features; the "
            f"reference {reference.name} has none.",
            hint="Make it again with `tcaq reference`, without --no-features.",
        )
    if wanted & NEEDS_SPATIAL and not reference.has_spatial:
        raise ReferenceUnusable(
            f"{_list(wanted & NEEDS_SPATIAL)} need spatial statistics; the reference "
            f"{reference.name} has none.",
            hint="Make it again with `tcaq reference`, of more images than there are "
            "spatial features.",
        )


def _check_sides(reference: ReferenceInfo, drawn: tuple[int, int]) -> None:
    if reference.image_size != drawn:
        height, width = reference.image_size
        raise ReferenceUnusable(
            f"The reference {reference.name} is of {width} x {height} images; "
            f"{drawn[1]} x {drawn[0]} are drawn.",
            hint="Make one of images of the size that is drawn: resizing moves the "
            "score.",
        )


def _list(metrics: frozenset[str]) -> str:
    return ", ".join(sorted(metrics))

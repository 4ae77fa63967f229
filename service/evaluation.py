"""What an evaluation asks for: looked up and checked before anything is queued."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jobs.artifacts import ArtifactStore
from jobs.settings import Settings
from service.errors import FieldRejected, refused
from service.local_models import local_folder
from tcaq_core.errors import (
    EvaluationFailed,
    ExtractorUnavailable,
    ModelUnsupported,
    ReferenceUnusable,
    TCAQError,
)
from tcaq_core.evaluation.check import check_model_size, check_plan
from tcaq_core.evaluation.extractor_folder import find_extractor
from tcaq_core.evaluation.plan import EvaluationPlan, resolve_evaluation
from tcaq_core.evaluation.protocols import PAIRED_METRICS, PROTOCOLS
from tcaq_core.evaluation.record import ExtractorInfo, ReferenceUsed
from tcaq_core.evaluation.reference_file import (
    find_reference,
    known_references,
    read_reference,
)
from tcaq_core.evaluation.spec import MAX_IMAGES, Evaluation
from tcaq_core.model_folder import inspect_model_folder

REFERENCE_MEDIA_TYPE: Final = "application/octet-stream"
EXTRACTORS: Final = "extractors"
PROTOCOL: Final = "/evaluation/protocol"
EXTRACTOR: Final = "/evaluation/extractor"
REFERENCE: Final = "/evaluation/reference"
METRICS: Final = "/evaluation/metrics"
NUM_IMAGES: Final = "/evaluation/num_images"


@dataclass(frozen=True)
class Planned:
    """A plan, and the file of the reference statistics that it names."""

    plan: EvaluationPlan
    reference: Path | None


def plan_of(
    asked: Evaluation, settings: Settings, store: ArtifactStore
) -> EvaluationPlan:
    """Return the plan of an evaluation; from now on the store has its reference.

    Workers on other machines find the statistics there, by their hash.

    Raises:
        FieldRejected: weights, statistics or a protocol that cannot be used.
    """
    found = look_up(asked, settings)
    if found.plan.reference is not None and found.reference is not None:
        _keep(found.reference, found.plan.reference.stats_sha256, store)
    return found.plan


def look_up(asked: Evaluation, settings: Settings) -> Planned:
    """Return the plan of an evaluation from the files that its names stand for.

    Raises:
        FieldRejected: weights, statistics or a protocol that cannot be used.
    """
    _check_protocol(asked.protocol)
    extractor = _extractor(asked, settings)
    path = _reference_file(asked, settings)
    reference = None if path is None else _read(path)
    plan = resolve_evaluation(asked, extractor=extractor, reference=reference)
    try:
        check_plan(plan)
    except ReferenceUnusable as error:
        raise FieldRejected(error, pointer=REFERENCE) from error
    except EvaluationFailed as error:
        raise FieldRejected(error, pointer=_culprit(plan)) from error
    return Planned(plan, path)


def alone(asked: Evaluation) -> Evaluation:
    """Return the evaluation of a model in full precision: it has no baseline.

    Raises:
        RequestInvalid: a metric that compares with the baseline is named.
    """
    paired = sorted(PAIRED_METRICS & set(asked.metrics or ()))
    if paired:
        raise refused(
            METRICS,
            f"{paired} compare with the full-precision model, which is what is "
            "evaluated.",
            hint="Leave them out, or evaluate a checkpoint.",
        )
    return Evaluation.model_validate(asked.model_dump() | {"baseline": False})


def check_image_size(plan: EvaluationPlan, model: str, settings: Settings) -> None:
    """Return unless one of the service's own models draws images of another size.

    Of others nothing is known here; the worker looks again.

    Raises:
        FieldRejected: the protocol, network or reference is for another size.
    """
    try:
        folder = inspect_model_folder(local_folder(model, settings))
    except TCAQError:
        return
    side = folder.sample_size
    try:
        check_model_size(plan, image_size=(side, side), channels=folder.in_channels)
    except ReferenceUnusable as error:
        raise FieldRejected(error, pointer=REFERENCE) from error
    except EvaluationFailed as error:
        pointer = EXTRACTOR if plan.image_size in {None, side} else PROTOCOL
        raise FieldRejected(error, pointer=pointer) from error


def _check_protocol(name: str) -> None:
    protocol = PROTOCOLS[name]
    if protocol.guidance is None and protocol.conditioning == "none":
        return
    usable = [
        other.name
        for other in PROTOCOLS.values()
        if other.guidance is None and other.conditioning == "none"
    ]
    error = ModelUnsupported(
        f"{name} draws images by {protocol.conditioning}; this version samples "
        "unconditional models only.",
        hint="GET /protocols says which can be used.",
    )
    raise FieldRejected(error, pointer=PROTOCOL, allowed=usable)


def _extractor(asked: Evaluation, settings: Settings) -> ExtractorInfo | None:
    if asked.network is None:
        return None
    try:
        return find_extractor(
            asked.network,
            directory=settings.evaluation_directory / EXTRACTORS,
            inception_weights=settings.inception_weights,
            dtype=asked.extractor_dtype,
        )
    except ExtractorUnavailable as error:
        raise FieldRejected(error, pointer=EXTRACTOR) from error


def _reference_file(asked: Evaluation, settings: Settings) -> Path | None:
    directory = settings.evaluation_directory
    try:
        name = asked.compared_with
        return None if name is None else find_reference(name, directory=directory)
    except ReferenceUnusable as error:
        known = known_references(directory)
        raise FieldRejected(error, pointer=REFERENCE, allowed=known) from error
    except ValueError as unnamed:
        cause = ReferenceUnusable(
            f"{asked.protocol} has no reference of its own: {unnamed}.",
            hint="Set evaluation.reference; `tcaq reference` makes one.",
        )
        known = known_references(directory)
        raise FieldRejected(cause, pointer=REFERENCE, allowed=known) from unnamed


def _read(path: Path) -> ReferenceUsed:
    try:
        return read_reference(path)
    except ReferenceUnusable as error:
        raise FieldRejected(error, pointer=REFERENCE) from error


def _culprit(plan: EvaluationPlan) -> str:
    """Return the field that would have to be another for the plan to be possible."""
    changes: dict[str, dict[str, Any]] = {
        NUM_IMAGES: {"num_images": MAX_IMAGES},
        EXTRACTOR: {"image_size": None},
    }
    for pointer, change in changes.items():
        try:
            check_plan(plan.model_copy(update=change))
        except TCAQError:
            continue
        return pointer
    return METRICS


def _keep(path: Path, sha256: str, store: ArtifactStore) -> None:
    if _is_kept(sha256, store):
        return
    stored = store.put(path, media_type=REFERENCE_MEDIA_TYPE)
    if stored.sha256 != sha256:
        error = ReferenceUnusable(
            f"{path.name} changed while it was read.", hint="Send the request again."
        )
        raise FieldRejected(error, pointer=REFERENCE)


def _is_kept(sha256: str, store: ArtifactStore) -> bool:
    """Return whether the store has it whole: who finds it damaged submits again."""
    path = store.path(sha256)
    if path is None:
        return store.exists(sha256)
    try:
        return read_reference(path).stats_sha256 == sha256
    except ReferenceUnusable:
        return False

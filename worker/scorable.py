"""Whether this worker can score what is asked: looked at before hours of work."""

from tcaq_core.evaluation.check import check_model_size, check_plan
from tcaq_core.evaluation.plan import EvaluationPlan
from tcaq_core.model_folder import inspect_model_folder
from worker.context import Context
from worker.files import Files
from worker.models import fetch_model
from worker.shard_work import extractor_of


def require_scorable_model(
    reference: str, plan: EvaluationPlan, context: Context
) -> None:
    """Return if the images of this model can be scored; as `require_scorable` raises.

    Raises:
        TCAQError: also as `fetch_model`.
    """
    found = inspect_model_folder(fetch_model(reference, context.settings).folder)
    side = found.sample_size
    require_scorable(plan, context, image_size=(side, side), channels=found.in_channels)


def require_scorable(
    plan: EvaluationPlan,
    context: Context,
    *,
    image_size: tuple[int, int],
    channels: int,
) -> None:
    """Return if images of that height and width can be scored here.

    Raises:
        EvaluationFailed, ReferenceUnusable: the plan cannot be scored, or not with
            such images.
        ExtractorUnavailable: this worker has not the network's weights.
        ArtifactNotFound, ArtifactCorrupt: the reference is not in the store, or
            damaged there.
    """
    check_plan(plan)
    check_model_size(plan, image_size=image_size, channels=channels)
    if plan.extractor is not None:
        extractor_of(plan.extractor, context)
    if plan.reference is not None:
        with Files(context) as files:
            files.path(plan.reference.stats_sha256)

"""Guards need a measurement: refused at submit where there would be none."""

from service.errors import refused
from tcaq_core.evaluation.spec import Evaluation, Guards


def check_guards(guards: Guards | None, evaluation: Evaluation | None) -> None:
    """Return if the evaluation measures what the guards limit.

    Raises:
        RequestInvalid: there is no evaluation, it lacks a metric, or it has no
            baseline to compare with.
    """
    if guards is None:
        return
    needed = sorted(guards.needs)
    if evaluation is None:
        raise refused(
            "/guards",
            f"Nothing measures {needed}: there is no evaluation.",
            hint='Add "evaluation": {"protocol": ...} to the request.',
        )
    missing = sorted(guards.needs - set(evaluation.wanted))
    if missing:
        raise refused(
            "/guards",
            f"The evaluation does not measure {missing}; it measures "
            f"{list(evaluation.wanted)}.",
            hint=f"Add {missing} to evaluation.metrics, or limit another metric.",
        )
    if not evaluation.baseline:
        raise refused(
            "/guards",
            "A limit is over the full-precision model's score: there is no baseline.",
            hint='Set "baseline": true in the evaluation.',
        )

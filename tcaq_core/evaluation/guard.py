"""Guards: whether a quantized model is close enough, and what to change where not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import fmean
from typing import Any, Final

from tcaq_core.errors import GuardViolated
from tcaq_core.evaluation.record import ScoreRecord
from tcaq_core.evaluation.spec import Guards
from tcaq_core.recipe import Override, Recipe

TOP_BITS: Final = 8


@dataclass(frozen=True)
class Violation:
    """A limit that does not hold."""

    limit: str
    allowed: float
    found: float

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.limit} is {self.allowed:g}, found {self.found:.4g}"


@dataclass(frozen=True)
class Repair:
    """A recipe that keeps more precision, and what it changed."""

    recipe: Recipe
    layers: tuple[str, ...]


def violations(guards: Guards, scores: Sequence[ScoreRecord]) -> tuple[Violation, ...]:
    """Return the limits that the scores break.

    Raises:
        GuardViolated: a limit's metric was not computed: nothing is let through
            unseen.
    """
    by_metric: dict[str, ScoreRecord] = {score.metric: score for score in scores}
    if missing := sorted(guards.needs - by_metric.keys()):
        raise GuardViolated(
            f"The guards need {', '.join(missing)}, which was not computed.",
            hint="Name it in evaluation.metrics.",
        )
    found: list[Violation] = []
    for metric, limit in (
        ("fid", guards.max_fid_increase),
        ("fd", guards.max_fd_increase),
    ):
        if limit is not None:
            increase = _increase(by_metric[metric])
            if not increase <= limit:
                found.append(Violation(f"max_{metric}_increase", limit, increase))
    if guards.min_psnr_db is not None:
        psnr = by_metric["psnr_db"].value
        # None is infinite: the images are equal.
        if psnr is not None and not psnr >= guards.min_psnr_db:
            found.append(Violation("min_psnr_db", guards.min_psnr_db, psnr))
    return tuple(found)


def repaired(
    recipe: Recipe,
    layers: Mapping[str, Any],
    guards: Guards,
    *,
    round_index: int,
) -> Repair:
    """Return a recipe that keeps the worst layers more precise.

    `layers` is the job's layer report. The worst are those with the lowest mean
    signal-to-noise ratio after the last pass; round r of R (r = 1 .. R) takes the
    worst r / (R + 1) of those that can be more precise at all. ``raise_bits`` gives
    them 8 bits for weights and activations, ``skip_layers`` leaves them in full
    precision.

    Raises:
        GuardViolated: nothing is left to change.
    """
    is_skip = guards.on_violation == "skip_layers"
    can_change = _is_quantized if is_skip else _can_rise
    ranked = [name for name in worst_first(layers) if can_change(recipe, name)]
    changed = ranked[: ceil(len(ranked) * round_index / (guards.max_rounds + 1))]
    if is_skip:
        skip = (*changed, *recipe.method.skip)
        method = recipe.method.model_copy(update={"skip": skip})
    else:
        raised = tuple(_raised(recipe, name) for name in changed)
        overrides = (*raised, *recipe.method.overrides)
        method = recipe.method.model_copy(update={"overrides": overrides})
    if not changed:
        raise GuardViolated(
            "The guards do not hold, and no layer is left that could be made more "
            "precise.",
            hint="Ask for less: a larger limit, more bits, or on_violation "
            '"skip_layers".',
        )
    return Repair(recipe.model_copy(update={"method": method}), tuple(changed))


def worst_first(layers: Mapping[str, Any]) -> list[str]:
    """Return the layers by their signal-to-noise ratio after the last pass, rising.

    There are none where nothing was quantized: the report is empty then.
    """
    passes: Sequence[Mapping[str, Any]] = layers.get("passes", ())
    rows: Mapping[str, Sequence[float | None]] = passes[-1]["layers"] if passes else {}

    def mean(name: str) -> float:
        known = [value for value in rows[name] if value is not None]
        # None is an error of nothing: the best there is.
        return fmean(known) if known else float("inf")

    return sorted(rows, key=lambda name: (mean(name), name))


def _increase(score: ScoreRecord) -> float:
    if score.baseline is None:
        raise GuardViolated(
            f"{score.label} has no baseline to compare with.",
            hint="Set evaluation.baseline true.",
        )
    return score.baseline.delta


def _is_quantized(recipe: Recipe, name: str) -> bool:
    return recipe.bits_of(name) is not None


def _can_rise(recipe: Recipe, name: str) -> bool:
    bits = recipe.bits_of(name)
    if bits is None:
        return False
    # What the recipe says of its weight is no more than a default then.
    is_chosen = recipe.chooses_weight_bits(name)
    return is_chosen or min(bits.weight_bits, bits.activation_bits) < TOP_BITS


def _raised(recipe: Recipe, name: str) -> Override:
    bits = recipe.bits_of(name)
    assert bits is not None  # noqa: S101 - `_can_rise` has said so
    return Override.model_validate(
        {
            "match": name,
            "weight_bits": max(bits.weight_bits, TOP_BITS),
            "activation_bits": max(bits.activation_bits, TOP_BITS),
        }
    )

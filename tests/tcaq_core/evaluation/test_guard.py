from typing import Any

import pytest

from tcaq_core.errors import GuardViolated
from tcaq_core.evaluation.guard import repaired, violations, worst_first
from tcaq_core.evaluation.spec import Guards
from tcaq_core.recipe import Allocate, FitRanges, Method, Override, Recipe, resolve
from tests.tcaq_core.evaluation.plans import make_score

LAYERS: dict[str, Any] = {
    "passes": [
        {"layers": {"a": [1.0], "b": [1.0], "c": [1.0], "d": [1.0]}},
        {"layers": {"a": [30.0, 20.0], "b": [5.0, None], "c": [None], "d": [10.0]}},
    ]
}


def _recipe(weight_bits: int = 4) -> Recipe:
    return resolve("rtn", weight_bits=weight_bits, activation_bits=8)


def test_a_limit_that_holds_is_no_violation() -> None:
    guards = Guards(max_fd_increase=1.0, min_psnr_db=30.0)
    scores = [make_score("fd", 6.0, delta=1.0), make_score("psnr_db", 30.0)]
    assert violations(guards, scores) == ()


def test_each_broken_limit_is_named_with_what_was_found() -> None:
    guards = Guards(max_fid_increase=0.5, min_psnr_db=30.0)
    scores = [make_score("fid", 6.0, delta=0.75), make_score("psnr_db", 29.0)]
    assert [str(item) for item in violations(guards, scores)] == [
        "max_fid_increase is 0.5, found 0.75",
        "min_psnr_db is 30, found 29",
    ]


def test_equal_images_satisfy_every_psnr() -> None:
    assert violations(Guards(min_psnr_db=99.0), [make_score("psnr_db", None)]) == ()


def test_nothing_is_let_through_unseen() -> None:
    with pytest.raises(GuardViolated, match="need fd"):
        violations(Guards(max_fd_increase=1.0), [make_score("psnr_db", 40.0)])
    with pytest.raises(GuardViolated, match="no baseline"):
        violations(Guards(max_fd_increase=1.0), [make_score("fd", 4.0)])


def test_the_worst_layers_by_the_last_pass_come_first() -> None:
    # b: 5 dB; d: 10; a: 25 on average; c has no error at all.
    assert worst_first(LAYERS) == ["b", "d", "a", "c"]


def test_each_round_takes_a_larger_share_of_the_worst() -> None:
    guards = Guards(min_psnr_db=1.0, on_violation="raise_bits", max_rounds=3)
    chosen = [
        repaired(_recipe(), LAYERS, guards, round_index=index).layers
        for index in (1, 2, 3)
    ]
    assert chosen == [("b",), ("b", "d"), ("b", "d", "a")]


def test_raised_bits_win_over_what_the_recipe_says_of_the_layer() -> None:
    guards = Guards(min_psnr_db=1.0, on_violation="raise_bits", max_rounds=1)
    recipe = repaired(_recipe(), LAYERS, guards, round_index=1).recipe
    bits = {name: recipe.bits_of(name) for name in "abcd"}
    raised = [name for name, found in bits.items() if found and found.weight_bits == 8]
    assert raised == ["b", "d"]
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_what_needs_no_more_bits_is_not_named_as_changed() -> None:
    guards = Guards(min_psnr_db=1.0, on_violation="raise_bits", max_rounds=1)
    with pytest.raises(GuardViolated, match="no layer is left"):
        repaired(_recipe(weight_bits=8), LAYERS, guards, round_index=1)


def test_a_round_is_not_spent_on_layers_that_are_precise_already() -> None:
    # b is the worst, and at 8 bits: the share is taken of the others.
    guards = Guards(min_psnr_db=1.0, on_violation="raise_bits", max_rounds=3)
    precise = Method(
        passes=(FitRanges(),),
        overrides=(Override(match="b", weight_bits=8, activation_bits=8),),
    )
    recipe = resolve(precise, weight_bits=4, activation_bits=8)
    assert repaired(recipe, LAYERS, guards, round_index=1).layers == ("d",)


def test_bits_that_a_pass_chooses_can_be_raised_whatever_the_recipe_s_are() -> None:
    guards = Guards(min_psnr_db=1.0, on_violation="raise_bits", max_rounds=3)
    method = Method(passes=(Allocate(average_weight_bits=4), FitRanges()))
    recipe = resolve(method, weight_bits=8, activation_bits=8)
    repair = repaired(recipe, LAYERS, guards, round_index=1)
    assert repair.layers == ("b",)
    assert not repair.recipe.chooses_weight_bits("b")
    assert repair.recipe.chooses_weight_bits("a")


@pytest.mark.parametrize("action", ["raise_bits", "skip_layers"])
def test_without_a_layer_report_nothing_can_be_repaired(action: str) -> None:
    guards = Guards.model_validate({"min_psnr_db": 1.0, "on_violation": action})
    with pytest.raises(GuardViolated, match="no layer is left"):
        repaired(_recipe(), {}, guards, round_index=1)


def test_skipped_layers_stay_in_full_precision() -> None:
    guards = Guards(min_psnr_db=1.0, on_violation="skip_layers", max_rounds=1)
    recipe = repaired(_recipe(weight_bits=8), LAYERS, guards, round_index=1).recipe
    assert recipe.bits_of("b") is None
    assert recipe.bits_of("d") is None
    assert recipe.bits_of("a") is not None


def test_sixteen_bit_activations_are_not_lowered() -> None:
    guards = Guards(min_psnr_db=1.0, on_violation="raise_bits", max_rounds=3)
    recipe = resolve("rtn", weight_bits=4, activation_bits=16)
    bits = repaired(recipe, LAYERS, guards, round_index=1).recipe.bits_of("b")
    assert bits is not None
    assert (bits.weight_bits, bits.activation_bits) == (8, 16)

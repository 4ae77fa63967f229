import pytest

from jobs.stages import Stage, plan, plan_sample, progress_of
from tests.factories import make_recipe


def _names(stages: tuple[Stage, ...]) -> list[str]:
    return [stage.name for stage in stages]


def test_the_stages_are_the_recipes_passes_between_loading_and_checking() -> None:
    passes = ["tcr", "fit_ranges", "daq", "par"]
    assert _names(plan(make_recipe("tcaq"))) == [
        *["fetch", "calibrate"],
        *passes,
        *["save", "verify", "benchmark"],
    ]
    assert _names(plan(make_recipe("rtn"))) == [
        *["fetch", "calibrate", "fit_ranges", "save", "verify", "benchmark"]
    ]


def test_a_format_beside_the_checkpoint_is_a_stage_of_its_own() -> None:
    recipe = make_recipe("rtn")
    both = plan(recipe, exports=("safetensors", "onnx"))
    assert _names(both) == [*_names(plan(recipe)), "export"]
    assert plan(recipe, exports=("safetensors",)) == plan(recipe)


def test_a_samples_stages_include_the_baseline_only_when_compared() -> None:
    compared = plan_sample(images=4, steps=10, compare=True)
    assert _names(compared) == ["fetch", "baseline", "sample", "store"]
    alone = plan_sample(images=4, steps=10, compare=False)
    assert _names(alone) == ["fetch", "sample", "store"]


def test_the_whole_jobs_fraction_never_falls_and_ends_at_one() -> None:
    stages = plan(make_recipe("tcaq"))
    fractions = [
        progress_of(stages, stage.name, done=done, total=10).fraction
        for stage in stages
        for done in range(11)
    ]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0.0
    assert fractions[-1] == 1.0


def test_a_stage_counts_by_its_share_of_the_cost() -> None:
    stages = (Stage("short", 1, "file"), Stage("long", 3, "step"))
    progress = progress_of(stages, "long", done=1, total=2)
    assert progress.fraction == pytest.approx((1 + 1.5) / 4)
    assert (progress.stage_index, progress.stage_count) == (1, 2)
    assert (progress.done, progress.total, progress.unit) == (1, 2, "step")


def test_a_stage_that_does_not_know_its_total_yet_counts_as_just_begun() -> None:
    stages = (Stage("short", 1, "file"), Stage("long", 3, "step"))
    assert progress_of(stages, "long", done=0, total=0).fraction == 0.25


def test_more_reconstruction_is_a_larger_share() -> None:
    def share(preset: str) -> float:
        stages = plan(make_recipe(preset))
        par = next(stage.weight for stage in stages if stage.name == "par")
        return par / sum(stage.weight for stage in stages)

    assert share("tcaq") < share("tcaq-paper") < 1


def test_an_unknown_stage_is_refused() -> None:
    with pytest.raises(ValueError, match="not in list"):
        progress_of((Stage("short", 1, "file"),), "long", done=0, total=1)

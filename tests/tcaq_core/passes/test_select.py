import pytest
import torch
from diffusers import UNet2DModel
from hypothesis import given
from hypothesis import strategies as st

from tcaq_core.calibration import CalibrationSet
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.errors import CalibrationFailed, ModelUnsupported
from tcaq_core.passes import select
from tcaq_core.recipe import Recipe, Select
from tcaq_core.timesteps import SamplerSteps

RULES = ["uniform", "normal", "density_variety"]
STEPS = SamplerSteps((801, 601, 401, 201, 1))


def keys(data: CalibrationSet) -> list[tuple[bytes, int]]:
    return [
        (x.numpy().tobytes(), int(t)) for x, t in zip(data.x_t, data.t, strict=True)
    ]


def config_of(rule: str, num_inputs: int) -> Select:
    return Select.model_validate({"rule": rule, "num_inputs": num_inputs})


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("num_inputs", [1, 7, 19, 20, 1000])
def test_what_is_selected_is_a_sub_multiset_as_large_as_asked_or_everything(
    denoiser: QuantizedDenoiser,
    data: CalibrationSet,
    generator: torch.Generator,
    rule: str,
    num_inputs: int,
) -> None:
    config = config_of(rule, num_inputs)
    chosen = select.apply(denoiser, data, config, generator=generator)
    assert len(chosen) == min(num_inputs, len(data))
    recorded = keys(data)
    for key in keys(chosen):
        recorded.remove(key)
    assert bool((chosen.t.diff() <= 0).all())


@pytest.mark.parametrize("rule", RULES)
def test_the_same_seed_selects_the_same_inputs(
    denoiser: QuantizedDenoiser, data: CalibrationSet, rule: str
) -> None:
    first, second = (
        select.apply(
            denoiser,
            data,
            config_of(rule, 9),
            generator=torch.Generator().manual_seed(4),
        )
        for _ in range(2)
    )
    assert keys(first) == keys(second)


def test_uniform_takes_as_many_of_each_step(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    chosen = select.apply(denoiser, data, config_of("uniform", 10), generator=generator)
    assert set(select.count_by_timestep(chosen).values()) == {2}


def test_a_report_counts_inputs_by_timestep_falling(data: CalibrationSet) -> None:
    counts = select.count_by_timestep(data)
    assert list(counts) == [str(t) for t in SamplerSteps.of_data(data.t).timesteps]
    assert sum(counts.values()) == len(data)


def test_normal_draws_follow_mean_and_deviation(generator: torch.Generator) -> None:
    config = Select(rule="normal", num_inputs=50_000, mean=0.4, std=0.1)
    t = select.draw_timesteps(1000, config, generator=generator)
    assert float(t.mean()) == pytest.approx(400, abs=3)
    assert float(t.std()) == pytest.approx(100, abs=3)
    wide = Select(rule="normal", num_inputs=1000, std=1.0)
    t = select.draw_timesteps(1000, wide, generator=generator)
    assert (float(t.min()), float(t.max())) == (0.0, 999.0)


def test_a_wanted_timestep_takes_an_input_of_the_nearest_step() -> None:
    wanted = torch.tensor([790.0, 610.0, 599.0, 3.0])
    available = torch.full((5,), 4)
    counts = select.nearest_counts(STEPS, wanted, available)
    assert counts.tolist() == [1, 2, 0, 0, 1]


def test_an_exhausted_step_gives_way_to_the_nearest_with_some_left() -> None:
    wanted = torch.full((5,), 590.0)
    available = torch.tensor([2, 1, 3, 2, 2])
    counts = select.nearest_counts(STEPS, wanted, available)
    # 601 once, then 401 three times (189 away), then 801 (211 away).
    assert counts.tolist() == [1, 1, 3, 0, 0]


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=8),
    st.integers(1, 40),
    st.integers(5, 12),
)
def test_counts_are_proportional_to_the_shares_and_add_up(
    shares: list[float], num: int, each: int
) -> None:
    num = min(num, each * len(shares))
    share, available = torch.tensor(shares), torch.full((len(shares),), each)
    counts = select.apportion(share, num, available)
    assert int(counts.sum()) == num
    assert bool((counts <= available).all())
    total = share.sum() if bool(share.sum() > 0) else torch.tensor(1.0)
    quota = num * share / total
    if bool((quota <= each).all()) and bool(share.sum() > 0):
        assert bool(((counts - quota).abs() < 1 + 1e-4).all())


def test_shares_of_zero_count_as_equal() -> None:
    counts = select.apportion(torch.zeros(3), 6, torch.full((3,), 4))
    assert counts.tolist() == [2, 2, 2]


def gram_of(features: torch.Tensor) -> torch.Tensor:
    features = features.double()
    return features @ features.T / features.shape[1]


def test_density_counts_the_steps_within_the_radius() -> None:
    features = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.5, 1.5], [9.0, 9.0]])
    # Mean squared differences: neighbours 1 and 0.25, everything else above 2.
    density = select.density(gram_of(features), radius=1.01)
    assert density.tolist() == pytest.approx([0.5, 1.0, 0.5, 0.0])


def test_without_a_radius_a_quarter_of_the_pairs_are_neighbours() -> None:
    features = torch.tensor([[0.0], [1.0], [3.0], [7.0], [15.0]])
    # Ten pairs; the quantile 0.25 lies between the third and the fourth smallest.
    gram = gram_of(features)
    near = select.density(gram, radius=None)
    by_hand = select.density(gram, radius=15.0)
    assert near.tolist() == by_hand.tolist()


def test_variety_is_largest_for_the_step_that_points_elsewhere() -> None:
    features = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 5.0]])
    variety = select.variety(gram_of(features))
    assert variety.tolist() == pytest.approx([variety[0].item(), 0.0, 1.0])
    assert select.variety(gram_of(torch.ones(3, 2))).tolist() == [0.0, 0.0, 0.0]


def test_the_products_of_features_are_those_of_the_mid_block(
    denoiser: QuantizedDenoiser, data: CalibrationSet
) -> None:
    steps = SamplerSteps.of_data(data.t)
    gram = select.feature_gram(denoiser, data, steps)
    num = len(data) // len(steps)
    features = select.mid_block_features(denoiser, data)
    by_step = features.view(len(steps), num, -1).flatten(1)
    assert torch.allclose(gram, gram_of(by_step), rtol=1e-5)


def test_a_larger_lambda_prefers_various_steps(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    steps = SamplerSteps.of_data(data.t)
    variety = select.variety(select.feature_gram(denoiser, data, steps))
    config = Select(rule="density_variety", num_inputs=8, variety_weight=1e6)
    chosen = select.apply(denoiser, data, config, generator=generator)
    most = steps.timesteps[int(variety.argmax())]
    least = steps.timesteps[int(variety.argmin())]
    counts = select.count_by_timestep(chosen)
    assert counts[str(most)] == max(counts.values())
    assert counts.get(str(least), 0) == 0


def test_broken_features_are_refused(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    data.x_t[0] = torch.nan
    config = config_of("density_variety", 5)
    with pytest.raises(CalibrationFailed, match="mid block"):
        select.apply(denoiser, data, config, generator=generator)


def test_a_model_without_a_mid_block_is_refused(
    recipe: Recipe, data: CalibrationSet, generator: torch.Generator
) -> None:
    unet = UNet2DModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        mid_block_type=None,
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )
    denoiser = QuantizedDenoiser(unet, recipe, num_timesteps=1000)
    config = config_of("density_variety", 5)
    with pytest.raises(ModelUnsupported, match="no mid block"):
        select.apply(denoiser, data, config, generator=generator)

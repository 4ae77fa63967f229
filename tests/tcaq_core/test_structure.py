import pytest
import torch
from torch import Tensor

from tcaq_core.calibration import CalibrationSet
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.manifest import Structure
from tcaq_core.passes import daq, fit_ranges, split, tcr
from tcaq_core.recipe import DAQ, TCR, FitRanges, LayerBits, Recipe
from tcaq_core.state import load_state, state_of
from tcaq_core.structure import grid_names, rebuild, structure_of
from tcaq_core.timesteps import SamplerSteps
from tests.tiny import tiny_unet

SHORTCUT = "up_blocks.1.resnets.0.conv_shortcut"
# Cheap criteria: what is stored does not depend on how it was chosen.
BY_STEP = FitRanges(weight="min_max", activation="min_max", timesteps="step")


def fresh(recipe: Recipe) -> QuantizedDenoiser:
    return QuantizedDenoiser(tiny_unet(), recipe, num_timesteps=1000)


def answers(denoiser: QuantizedDenoiser, data: CalibrationSet) -> Tensor:
    with torch.no_grad():
        return denoiser(data.x_t, data.t)


def prepare(
    denoiser: QuantizedDenoiser,
    data: CalibrationSet,
    generator: torch.Generator,
    *,
    upto: str,
) -> None:
    """Run passes that change the structure, up to and including one of them."""
    split.apply(denoiser, data)
    if upto == "split":
        return
    tcr.apply(denoiser, data, TCR(strength="search", layers="all", cap="dilation"))
    if upto == "tcr":
        return
    fit_ranges.apply(denoiser, data, BY_STEP, generator=generator)
    if upto == "daq":
        daq.apply(denoiser, data, DAQ(num_groups=4), generator=generator)


def test_a_new_denoiser_s_structure_says_that_nothing_happened(recipe: Recipe) -> None:
    structure = structure_of(fresh(recipe))
    assert structure.steps == ()
    for entry in structure.layers.values():
        assert entry.parts == (entry.shape[1],)
        assert not entry.is_rescaled


def test_a_structure_survives_json(
    recipe: Recipe, data: CalibrationSet, generator: torch.Generator
) -> None:
    denoiser = fresh(recipe)
    prepare(denoiser, data, generator, upto="daq")
    structure = structure_of(denoiser)
    assert Structure.model_validate_json(structure.model_dump_json()) == structure
    assert structure.layers[SHORTCUT].parts == (32, 16)
    assert structure.steps == SamplerSteps.of_data(data.t).timesteps


def test_rebuilding_gives_a_fresh_denoiser_the_same_structure(
    recipe: Recipe, data: CalibrationSet
) -> None:
    source, other = fresh(recipe), fresh(recipe)
    split.apply(source, data)
    dict(source.quant_layers())["mid_block.resnets.0.conv1"].change_bits(
        LayerBits(weight_bits=7, activation_bits=16)
    )
    source.cursor.steps = SamplerSteps((900, 100))
    rebuild(other, structure_of(source))
    assert structure_of(other) == structure_of(source)
    assert torch.equal(answers(other, data), answers(source, data))


def test_a_described_layer_that_does_not_exist_is_refused(recipe: Recipe) -> None:
    structure = structure_of(fresh(recipe))
    layers = dict(structure.layers)
    layers["up_blocks.9.conv"] = layers.pop(SHORTCUT)
    with pytest.raises(ValueError, match="other layers"):
        rebuild(fresh(recipe), structure.model_copy(update={"layers": layers}))


def test_a_described_layer_of_another_shape_is_refused(recipe: Recipe) -> None:
    structure = structure_of(fresh(recipe))
    entry = structure.layers[SHORTCUT].model_copy(update={"shape": (1, 2, 3, 3)})
    layers = {**structure.layers, SHORTCUT: entry}
    with pytest.raises(ValueError, match=SHORTCUT):
        rebuild(fresh(recipe), structure.model_copy(update={"layers": layers}))


@pytest.mark.parametrize("upto", ["split", "tcr", "fit_ranges", "daq"])
def test_a_snapshot_restores_the_denoiser_between_any_two_passes(
    recipe: Recipe, data: CalibrationSet, generator: torch.Generator, upto: str
) -> None:
    source, other = fresh(recipe), fresh(recipe)
    prepare(source, data, generator, upto=upto)
    state, structure = state_of(source, snapshot=True), structure_of(source)
    load_state(other, state, structure, snapshot=True)
    assert structure_of(other) == structure
    again = state_of(other, snapshot=True)
    assert set(again) == set(state)
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())
    assert torch.equal(answers(other, data), answers(source, data))


@pytest.mark.parametrize("upto", ["split", "tcr"])
def test_the_passes_after_a_snapshot_do_what_they_would_have_done(
    recipe: Recipe, data: CalibrationSet, upto: str
) -> None:
    source, other = fresh(recipe), fresh(recipe)
    prepare(source, data, torch.Generator().manual_seed(0), upto=upto)
    snapshot = state_of(source, snapshot=True)
    load_state(other, snapshot, structure_of(source), snapshot=True)
    for denoiser in (source, other):
        generator = torch.Generator().manual_seed(1)
        fit_ranges.apply(denoiser, data, BY_STEP, generator=generator)
    first, second = state_of(source), state_of(other)
    assert set(first) == set(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_checkpoint_s_state_restores_the_answers_without_the_full_weights(
    recipe: Recipe, data: CalibrationSet, generator: torch.Generator
) -> None:
    source, other = fresh(recipe), fresh(recipe)
    prepare(source, data, generator, upto="daq")
    load_state(other, state_of(source), structure_of(source))
    assert all(layer.weight is None for _, layer in other.quant_layers())
    assert torch.equal(answers(other, data), answers(source, data))
    # Timesteps of another sampler read the nearest of the calibrated steps.
    between = CalibrationSet(data.x_t, data.t.add(37).clamp(0, 999))
    assert torch.equal(answers(other, between), answers(source, between))


def test_a_missing_tensor_of_a_checkpoint_is_refused(
    recipe: Recipe, data: CalibrationSet, generator: torch.Generator
) -> None:
    source = fresh(recipe)
    prepare(source, data, generator, upto="daq")
    state = state_of(source)
    del state[f"{SHORTCUT}.input_quantizer.scale"]
    with pytest.raises(KeyError, match=SHORTCUT):
        load_state(fresh(recipe), state, structure_of(source))


def test_every_grid_has_a_name(
    recipe: Recipe, data: CalibrationSet, generator: torch.Generator
) -> None:
    denoiser = fresh(recipe)
    prepare(denoiser, data, generator, upto="fit_ranges")
    _, _, processor = next(iter(denoiser.attentions()))
    log_step = torch.tensor([0.0, 1.0, 0.5, 7 / 37])
    processor.softmax_quantizer.fit(torch.ones(4), log_step)
    assert grid_names(processor.softmax_quantizer) == (
        *("uniform", "log2", "log_sqrt2"),
        "adaptive",
    )

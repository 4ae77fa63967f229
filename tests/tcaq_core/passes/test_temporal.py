import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tcaq_core import checkpoint
from tcaq_core.calibration import BlockReplay, CalibrationSet, full_precision_outputs
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.diffusion import Pipeline, load_pipeline, sample
from tcaq_core.errors import ModelUnsupported
from tcaq_core.passes import fit_ranges, par, temporal
from tcaq_core.quantization import quantize
from tcaq_core.recipe import PAR, FitRanges, Method, Recipe, Temporal, resolve
from tcaq_core.state import load_state, state_of
from tcaq_core.structure import structure_of
from tcaq_core.temporal import cached_features, temporal_features, temporal_layers
from tcaq_core.timesteps import SamplerSteps
from tests.tcaq_core.conftest import SPEC

CPU = torch.device("cpu")
LEARN = Temporal(iterations=40, learning_rate=5e-2)
CACHE = Temporal(maintenance="cache")
# No search: ranges are not what these tests are about.
RANGES = FitRanges(weight="min_max", activation="min_max")


def recipe_with(*passes: Temporal | PAR, activation_bits: int = 4) -> Recipe:
    return resolve(
        Method(
            passes=(RANGES, *passes),
            skip=("conv_in", "conv_out", "time_embedding.linear_1"),
        ),
        weight_bits=4,
        activation_bits=activation_bits,  # type: ignore[arg-type]
        calibration=SPEC,
    )


def denoiser_of(folder: Path, recipe: Recipe) -> QuantizedDenoiser:
    pipeline = load_pipeline(folder, device=CPU)
    return QuantizedDenoiser(pipeline.denoiser, recipe, num_timesteps=1000)


def run(
    denoiser: QuantizedDenoiser,
    data: CalibrationSet,
    generator: torch.Generator,
    config: Temporal = LEARN,
    ranges: FitRanges = RANGES,
) -> dict[str, object]:
    fit_ranges.apply(denoiser, data, ranges, generator=generator)
    steps = SamplerSteps.of_data(data.t)
    return temporal.apply(denoiser, steps, config, progress=lambda *_: None)


def features_at(denoiser: QuantizedDenoiser, t: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        return temporal_features(denoiser, t)


@pytest.mark.parametrize("activation_bits", [4, 8, 16])
@pytest.mark.parametrize("timesteps", ["shared", "step"])
def test_the_temporal_features_error_never_grows(
    tiny_folder: Path,
    data: CalibrationSet,
    generator: torch.Generator,
    activation_bits: int,
    timesteps: str,
) -> None:
    recipe = recipe_with(activation_bits=activation_bits)
    denoiser = denoiser_of(tiny_folder, recipe)
    ranges = FitRanges.model_validate(RANGES.model_dump() | {"timesteps": timesteps})
    report = run(denoiser, data, generator, ranges=ranges)
    errors = [report[f"error_{stage}"] for stage in ("before", "finite_set", "after")]
    assert errors == sorted(errors, reverse=True)  # type: ignore[type-var]
    t = torch.tensor(SamplerSteps.of_data(data.t).timesteps)
    with denoiser.full_precision():
        exact = features_at(denoiser, t)
    found = temporal.feature_errors(features_at(denoiser, t), exact)
    assert float(found.double().sum()) == errors[-1]


def test_learning_helps_and_a_harmful_rounding_is_not_kept(
    tiny_folder: Path, data: CalibrationSet, generator: torch.Generator
) -> None:
    denoiser = denoiser_of(tiny_folder, recipe_with(activation_bits=8))
    report = run(denoiser, data, generator)
    assert report["kept"] is True
    assert report["error_after"] < report["error_finite_set"]  # type: ignore[operator]
    wild = Temporal(iterations=3, learning_rate=100.0)
    denoiser = denoiser_of(tiny_folder, recipe_with())
    fit_ranges.apply(denoiser, data, RANGES, generator=generator)
    codes = {n: x.codes().clone() for n, x in temporal_layers(denoiser).items()}
    report = run(denoiser, data, generator, wild)
    assert report["kept"] is False
    for name, layer in temporal_layers(denoiser).items():
        assert torch.equal(layer.codes(), codes[name])


def test_each_step_has_a_row_of_its_own_inside_the_block_only(
    tiny_folder: Path, data: CalibrationSet, generator: torch.Generator
) -> None:
    denoiser = denoiser_of(tiny_folder, recipe_with())
    run(denoiser, data, generator)
    steps = SamplerSteps.of_data(data.t)
    assert denoiser.cursor.steps == steps
    inside = {f"{name}.input_quantizer" for name in temporal_layers(denoiser)}
    for name, quantizer in denoiser.activation_quantizers().items():
        assert len(quantizer.scale) == (len(steps) if name in inside else 1), name


def test_without_the_finite_set_one_grid_stays(
    tiny_folder: Path, data: CalibrationSet, generator: torch.Generator
) -> None:
    denoiser = denoiser_of(tiny_folder, recipe_with())
    run(denoiser, data, generator, LEARN.model_copy(update={"finite_set": False}))
    assert denoiser.cursor.steps is None
    assert all(len(q.scale) == 1 for q in denoiser.activation_quantizers().values())


def test_reconstruction_leaves_a_settled_block_alone(
    tiny_folder: Path, data: CalibrationSet, generator: torch.Generator
) -> None:
    denoiser = denoiser_of(tiny_folder, recipe_with())
    assert "time_embedding" in denoiser.blocks()
    run(denoiser, data, generator)
    assert "time_embedding" not in denoiser.blocks()
    before = {n: layer.codes().clone() for n, layer in denoiser.quant_layers()}
    par.apply(
        denoiser,
        data,
        PAR(rounds=0, iterations=20, learning_rate=0.1),
        resample=lambda _k, _tick: data,
        generator=generator,
        progress=lambda *_: None,
    )
    settled = temporal_layers(denoiser)
    changed = {
        name
        for name, layer in denoiser.quant_layers()
        if not torch.equal(layer.codes(), before[name])
    }
    assert changed
    assert not changed & set(settled)


@pytest.mark.parametrize("config", [LEARN, CACHE], ids=lambda c: c.maintenance)
def test_replaying_blocks_gives_what_the_denoiser_gives(
    tiny_folder: Path,
    data: CalibrationSet,
    generator: torch.Generator,
    config: Temporal,
) -> None:
    denoiser = denoiser_of(tiny_folder, recipe_with())
    run(denoiser, data, generator, config)
    replay = BlockReplay(denoiser, data)
    for name in itertools.islice(full_precision_outputs(denoiser, data), 4):
        given = replay.inputs_of(name)
        kept: list[Tensor] = []
        handle = denoiser.blocks()[name].register_forward_hook(
            lambda _m, _args, out, kept=kept: kept.append(out)
        )
        with torch.no_grad():
            for batch in data.batches():
                denoiser(batch.x_t, batch.t)
        handle.remove()
        replay.finish(name, given)
        found = replay.finished.rows(name, slice(0, len(data)))
        assert torch.equal(found, torch.cat(kept))


def test_the_cache_replaces_the_block_by_its_features(
    tiny_folder: Path, data: CalibrationSet, generator: torch.Generator
) -> None:
    denoiser = denoiser_of(tiny_folder, recipe_with())
    t = torch.tensor(SamplerSteps.of_data(data.t).timesteps)
    exact = features_at(denoiser, t)
    report = run(denoiser, data, generator, CACHE)
    assert report["cached_numbers"] == sum(x.numel() for x in exact.values())
    assert not temporal_layers(denoiser)
    found = features_at(denoiser, t)
    for name, feature in exact.items():
        assert torch.equal(found[name], feature.to(torch.float16).float())
    stored = state_of(denoiser)
    assert not any("linear_" in name or "proj.weight" in name for name in stored)


def test_a_timestep_that_is_not_cached_is_refused(
    tiny_folder: Path, data: CalibrationSet, generator: torch.Generator
) -> None:
    denoiser = denoiser_of(tiny_folder, recipe_with())
    run(denoiser, data, generator, CACHE)
    with pytest.raises(ModelUnsupported, match="17") as caught:
        denoiser(data.x_t[:1], torch.tensor([17]))
    assert f"num_steps={SPEC.num_steps}" in caught.value.hint


@pytest.mark.parametrize("config", [LEARN, CACHE], ids=lambda c: c.maintenance)
def test_a_checkpoint_reloads_bit_equal(
    pipeline: Pipeline, tmp_path: Path, config: Temporal
) -> None:
    recipe = recipe_with(config, PAR(rounds=1, iterations=2, round_iterations=1))
    size = sum(p.numel() for p in pipeline.denoiser.parameters())
    result = quantize(pipeline, recipe, progress=lambda *_: None)
    manifest = checkpoint.save(
        tmp_path / "c", pipeline, result.denoiser, recipe, model={}, environment={}
    )
    assert manifest.float32_bytes == 4 * size
    loaded = checkpoint.load(tmp_path / "c", device=CPU)
    probes = [
        checkpoint.probe(pipeline, result.denoiser),
        checkpoint.probe(loaded.pipeline, loaded.denoiser),
    ]
    assert probes[0] == probes[1]
    assert structure_of(loaded.denoiser) == structure_of(result.denoiser)
    steps = SPEC.num_steps
    images = [
        sample(p, seeds=[3], num_steps=steps) for p in (pipeline, loaded.pipeline)
    ]
    assert torch.equal(*images)


@pytest.mark.parametrize("config", [LEARN, CACHE], ids=lambda c: c.maintenance)
def test_a_snapshot_restores_the_block(
    tiny_folder: Path,
    data: CalibrationSet,
    generator: torch.Generator,
    config: Temporal,
) -> None:
    denoiser = denoiser_of(tiny_folder, recipe_with())
    run(denoiser, data, generator, config)
    fresh = denoiser_of(tiny_folder, recipe_with())
    state = state_of(denoiser, snapshot=True)
    load_state(fresh, state, structure_of(denoiser), snapshot=True)
    assert list(fresh.blocks()) == list(denoiser.blocks())
    with torch.no_grad():
        expected = denoiser(data.x_t, data.t)
        assert torch.equal(fresh(data.x_t, data.t), expected)


def test_a_block_in_full_precision_has_nothing_to_learn(
    tiny_folder: Path, data: CalibrationSet, generator: torch.Generator
) -> None:
    method = Method(passes=(FitRanges(),), skip=("time_embedding.*", "*.time_emb_proj"))
    recipe = resolve(method, weight_bits=4, activation_bits=4, calibration=SPEC)
    with pytest.raises(ModelUnsupported, match="time embedding"):
        run(denoiser_of(tiny_folder, recipe), data, generator)
    denoiser = denoiser_of(tiny_folder, recipe)
    run(denoiser, data, generator, CACHE)
    assert cached_features(denoiser)

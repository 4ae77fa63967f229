import json
import math
from pathlib import Path
from statistics import fmean

import pytest
import torch

from tcaq_core.calibration import CalibrationSet
from tcaq_core.denoiser import QuantizedDenoiser, modulate_input
from tcaq_core.difference import differences_in
from tcaq_core.diffusion import Pipeline, load_pipeline
from tcaq_core.evaluation.paired import relative_mse
from tcaq_core.passes import fit_ranges, tcr
from tcaq_core.quantization import quantize
from tcaq_core.recipe import DAQ, PAR, TCR, FitRanges, Method, Recipe, resolve
from tcaq_core.report import LayerReport, after_pass, layer_bytes
from tcaq_core.signal_noise import probe_batches
from tcaq_core.state import state_of
from tests.tcaq_core.conftest import SPEC

# The only pass of the fixture `recipe`.
MIN_MAX = FitRanges(weight="min_max", activation="min_max")


def _no_tick() -> None:
    pass


@pytest.fixture
def fitted(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> QuantizedDenoiser:
    fit_ranges.apply(denoiser, data, MIN_MAX, generator=generator)
    return denoiser


def _report(denoiser: QuantizedDenoiser, data: CalibrationSet) -> LayerReport:
    found = after_pass("fit_ranges", denoiser, data, None, tick=_no_tick)
    return LayerReport.model_validate(found)


def test_looking_changes_neither_the_result_nor_any_randomness(
    fitted: QuantizedDenoiser, data: CalibrationSet
) -> None:
    before, random = state_of(fitted), torch.random.get_rng_state()
    modules = [m.training for m in fitted.unet.modules()]
    _report(fitted, data)
    after = state_of(fitted)
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(random, torch.random.get_rng_state())
    assert modules == [m.training for m in fitted.unet.modules()]
    assert not any(m._forward_hooks for _, m in fitted.quant_layers())


def test_a_quantization_gives_the_state_that_its_passes_give_without_a_report(
    tiny_folder: Path, fitted: QuantizedDenoiser, recipe: Recipe
) -> None:
    pipeline = load_pipeline(tiny_folder, device=torch.device("cpu"))
    with_report = quantize(pipeline, recipe, progress=lambda *_: None)
    assert "layers" in with_report.report
    found, alone = state_of(with_report.denoiser), state_of(fitted)
    assert list(found) == list(alone)
    assert all(torch.equal(found[name], alone[name]) for name in alone)


def test_the_predicted_noise_has_the_ratio_of_its_own_error(
    fitted: QuantizedDenoiser, data: CalibrationSet
) -> None:
    report = _report(fitted, data)
    with torch.no_grad():
        for index, (first, last) in enumerate(report.groups):
            at = (data.t >= first) & (data.t <= last)
            with fitted.full_precision():
                exact = fitted(data.x_t[at], data.t[at])
            error = relative_mse(fitted(data.x_t[at], data.t[at]), exact)
            found = report.passes[0].output[index]
            assert found == pytest.approx(-10 * math.log10(error), abs=0.02)


def test_every_quantized_layer_has_a_row_for_every_group_that_is_visited(
    fitted: QuantizedDenoiser, data: CalibrationSet
) -> None:
    report = _report(fitted, data)
    (rows,) = report.passes
    assert set(rows.layers) == {name for name, _ in fitted.quant_layers()}
    visited = {int(t) * 10 // 1000 for t in data.t}
    assert [first // 100 for first, _ in report.groups] == sorted(visited)
    assert all(last == first + 99 for first, last in report.groups)
    assert all(len(row) == len(report.groups) for row in rows.layers.values())
    assert all(-20 < d < 80 for row in rows.layers.values() for d in row if d)


def test_a_pass_before_anything_is_quantized_gives_no_rows(
    denoiser: QuantizedDenoiser, data: CalibrationSet
) -> None:
    tcr.apply(denoiser, data, TCR())
    assert after_pass("tcr", denoiser, data, None, tick=_no_tick) is None


def test_gains_are_the_differences_to_the_pass_before(
    fitted: QuantizedDenoiser, data: CalibrationSet
) -> None:
    first = after_pass("fit_ranges", fitted, data, None, tick=_no_tick)
    for _, layer in fitted.quant_layers():
        layer.is_active = False  # activations stay on their grids: a smaller error
    next(fitted.quant_layers())[1].is_active = True
    second = LayerReport.model_validate(
        after_pass("par", fitted, data, first, tick=_no_tick)
    )
    one, two = second.passes
    assert (one.kind, two.kind) == ("fit_ranges", "par")
    assert one.output_gain is None
    assert set(one.gains.values()) == {None}
    before, after = (fmean(d for d in rows.output if d) for rows in (one, two))
    assert two.output_gain == pytest.approx(after - before, abs=0.02)
    assert after > before + 1


def test_what_no_error_or_no_number_gives_is_null(
    fitted: QuantizedDenoiser, data: CalibrationSet
) -> None:
    *others, (last, _) = fitted.quant_layers()
    for quantizer in fitted.activation_quantizers().values():
        quantizer.is_active = False
    for _, _, processor in fitted.attentions():
        processor.softmax_quantizer.is_active = False
    for _, layer in others:
        layer.is_active = False
    report = after_pass("fit_ranges", fitted, data, None, tick=_no_tick)
    text = json.dumps(report, allow_nan=False)
    rows = LayerReport.model_validate_json(text).passes[0]
    for name, row in rows.layers.items():
        # In the order of registration mid_block is last, and up blocks run after it.
        if name != last and not name.startswith("up_blocks"):
            assert set(row) <= {None}, name
    assert None not in rows.layers[last]


def test_the_bytes_add_up_to_the_stored_tensors(fitted: QuantizedDenoiser) -> None:
    sizes, other = layer_bytes(fitted)
    listed = sum(item.codes + item.scales + item.rest for item in sizes.values())
    stored = sum(tensor.nbytes for tensor in state_of(fitted).values())
    assert listed + other == stored
    for name, layer in fitted.quant_layers():
        assert sizes[name].codes == -(-layer.codes().numel() * 4 // 8)
        assert sizes[name].scales >= 5 * layer.shape[0]


def test_layers_that_quantize_what_changed_are_shown_whole_trajectories(
    fitted: QuantizedDenoiser, data: CalibrationSet
) -> None:
    for _, layer in fitted.quant_layers():
        if layer.bits.activation_bits < 16:
            modulate_input(layer, "dynamic")
    batches = probe_batches(fitted, data)
    assert [sorted(set(batch.t.tolist())) for batch in batches] == [
        [t] for t in sorted(set(data.t.tolist()), reverse=True)
    ]
    assert {len(batch) for batch in batches} == {4}
    report = _report(fitted, data)
    assert all(d is not None and d > 5 for d in report.passes[0].output)
    # What was looked at does not go on in the next sampling.
    assert all(q.held is None for q in differences_in(fitted.unet).values())


def test_a_quantization_reports_every_pass_that_quantizes(pipeline: Pipeline) -> None:
    passes = (
        TCR(),
        MIN_MAX,
        DAQ(),
        PAR(rounds=0, iterations=20, batch_size=8, learning_rate=5e-2),
    )
    recipe = resolve(
        Method(passes=passes), weight_bits=4, activation_bits=8, calibration=SPEC
    )
    result = quantize(pipeline, recipe, progress=lambda *_: None)
    text = json.dumps(result.report["layers"], allow_nan=False)
    report = LayerReport.model_validate_json(text)
    assert [rows.kind for rows in report.passes] == ["fit_ranges", "daq", "par"]


def test_a_report_can_be_interrupted(
    fitted: QuantizedDenoiser, data: CalibrationSet
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        after_pass("fit_ranges", fitted, data, None, tick=stop)
    assert all(layer.is_active for _, layer in fitted.quant_layers())


def test_the_same_quantization_gives_the_same_report(
    pipeline: Pipeline, recipe: Recipe, data: CalibrationSet
) -> None:
    result = quantize(pipeline, recipe, progress=lambda *_: None)
    again = after_pass("fit_ranges", result.denoiser, data, None, tick=_no_tick)
    assert again == result.report["layers"]

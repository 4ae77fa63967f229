from typing import Any

import torch

from tcaq_core.calibration import CalibrationSet
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.passes import fit_ranges, par
from tcaq_core.recipe import PAR, FitRanges
from tcaq_core.teacher import Teacher
from tcaq_core.workspace import Workspace

SMALL = PAR(rounds=1, iterations=20, round_iterations=10, learning_rate=5e-2)


def run(
    denoiser: QuantizedDenoiser,
    data: CalibrationSet,
    generator: torch.Generator,
    config: PAR = SMALL,
) -> dict[str, Any]:
    fit_ranges.apply(denoiser, data, FitRanges(), generator=generator)
    return par.apply(
        denoiser,
        data,
        config,
        resample=lambda _k, _tick: CalibrationSet(data.x_t.flip(0), data.t.flip(0)),
        generator=generator,
        progress=lambda _done, _total: None,
    )


def test_the_loss_of_a_block_never_grows(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    blocks = run(denoiser, data, generator)["blocks"]
    assert len(blocks) == 2 * len(denoiser.blocks())
    for entry in blocks:
        assert entry["loss_after"] <= entry["loss_before"]
    assert any(entry["kept"] for entry in blocks)


def test_it_says_where_its_time_went(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    timing = run(denoiser, data, generator)["timing"]
    assert timing["iterations"] == 30 * len(denoiser.blocks())
    inner = timing["optimise_seconds"] + timing["capture_seconds"]
    assert 0 < inner < timing["total_seconds"]


def test_layers_inside_a_block_have_a_teacher_too(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    exact = denoiser(data.x_t, data.t)
    layers = dict(denoiser.quant_layers())
    answers: dict[str, torch.Tensor] = {}
    handle = layers["mid_block.resnets.0.conv1"].register_forward_hook(
        lambda _m, _args, out: answers.update(conv1=out)
    )
    denoiser(data.x_t, data.t)
    handle.remove()
    fit_ranges.apply(denoiser, data, FitRanges(), generator=generator)
    teacher = Teacher(denoiser, data, inside=True, workspace=Workspace())
    for name in teacher.blocks():
        target, inside = teacher.answers(name)
        if name == "mid_block.resnets.0":
            assert set(inside) == {"conv1", "conv2", "time_emb_proj"}
            assert torch.allclose(inside["conv1"], answers["conv1"], atol=1e-5)
            assert target.shape == inside["conv2"].shape
    with denoiser.full_precision():
        assert torch.equal(denoiser(data.x_t, data.t), exact)


def test_a_paired_teacher_answers_on_its_own_trajectory(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    modes: list[bool] = []

    def resample(k: int, tick: par.Tick) -> CalibrationSet:
        del k, tick
        modes.append(any(layer.is_active for _, layer in denoiser.quant_layers()))
        return data

    fit_ranges.apply(denoiser, data, FitRanges(), generator=generator)
    par.apply(
        denoiser,
        data,
        PAR(rounds=1, iterations=1, round_iterations=1, teacher="paired"),
        resample=resample,
        generator=generator,
        progress=lambda _done, _total: None,
    )
    assert modes == [True, False]


def test_par_changes_codes_only(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    weights = {n: w.full_weight().clone() for n, w in denoiser.quant_layers()}
    run(denoiser, data, generator)
    for name, layer in denoiser.quant_layers():
        assert torch.equal(layer.full_weight(), weights[name])
        assert layer.rounding is None
        top = 2**layer.bits.weight_bits - 1
        assert int(layer.codes().max()) <= top


def test_each_round_samples_with_the_quantized_model(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    asked: list[int] = []

    def resample(k: int, tick: par.Tick) -> CalibrationSet:
        tick(1, 1)
        asked.append(k)
        assert all(layer.is_active for _, layer in denoiser.quant_layers())
        return data

    fit_ranges.apply(denoiser, data, FitRanges(), generator=generator)
    config = PAR(rounds=2, iterations=2, round_iterations=1)
    par.apply(
        denoiser,
        data,
        config,
        resample=resample,
        generator=generator,
        progress=lambda _done, _total: None,
    )
    assert asked == [1, 2]


def test_reconstruction_improves_the_predicted_noise(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    exact = denoiser(data.x_t, data.t)
    fit_ranges.apply(denoiser, data, FitRanges(), generator=generator)
    before = float((denoiser(data.x_t, data.t) - exact).square().mean())
    run(
        denoiser,
        data,
        generator,
        PAR(rounds=0, iterations=150, learning_rate=2e-2, batch_size=20),
    )
    after = float((denoiser(data.x_t, data.t) - exact).square().mean())
    assert after < 0.9 * before


def test_progress_counts_blocks_over_all_rounds(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    seen: list[tuple[int, int]] = []
    fit_ranges.apply(denoiser, data, FitRanges(), generator=generator)
    par.apply(
        denoiser,
        data,
        PAR(rounds=1, iterations=1, round_iterations=1),
        resample=lambda _k, _tick: data,
        generator=generator,
        progress=lambda done, total: seen.append((done, total)),
    )
    total = 2 * len(denoiser.blocks())
    assert list(dict.fromkeys(seen)) == [(done, total) for done in range(total + 1)]

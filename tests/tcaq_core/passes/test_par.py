import torch

from tcaq_core.calibration import CalibrationSet
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.passes import fit_ranges, par
from tcaq_core.recipe import PAR, FitRanges

SMALL = PAR(rounds=1, iterations=20, round_iterations=10, learning_rate=5e-2)


def run(
    denoiser: QuantizedDenoiser,
    data: CalibrationSet,
    generator: torch.Generator,
    config: PAR = SMALL,
) -> list[dict[str, object]]:
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
    report = run(denoiser, data, generator)
    assert len(report) == 2 * len(denoiser.blocks())
    for entry in report:
        before, after = entry["loss_before"], entry["loss_after"]
        assert isinstance(before, float)
        assert isinstance(after, float)
        assert after <= before
    assert any(entry["kept"] for entry in report)


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

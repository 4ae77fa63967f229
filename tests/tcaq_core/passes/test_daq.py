import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tcaq_core.calibration import CalibrationSet
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.passes import daq, fit_ranges
from tcaq_core.recipe import DAQ, FitRanges, Method, resolve
from tcaq_core.timesteps import TimestepGroups
from tests.tiny import tiny_unet

PAPER_GRIDS = DAQ(grids=("uniform", "log2"))


def attention_output_error(denoiser: QuantizedDenoiser, data: CalibrationSet) -> float:
    """Return the error of every Q(a) v on full-precision operands."""
    total = 0.0
    for _, _, processor in denoiser.attentions():
        mix = processor.mix

        def see(_m: object, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
            nonlocal total
            total += float((out - args[0] @ args[1]).square().double().sum())

        handle = mix.register_forward_hook(see)
        with torch.no_grad(), denoiser.full_precision():
            mix.softmax_quantizer.is_active = True
            denoiser(data.x_t, data.t)
            mix.softmax_quantizer.is_active = False
        handle.remove()
    return total


@pytest.fixture
def low_bit(data: CalibrationSet, generator: torch.Generator) -> QuantizedDenoiser:
    recipe = resolve(
        Method(passes=(FitRanges(),)),
        weight_bits=4,
        activation_bits=8,
        softmax_bits=4,
    )
    unet = tiny_unet()
    denoiser = QuantizedDenoiser(unet, recipe, num_timesteps=1000)
    with torch.no_grad():
        for _, attn, _ in denoiser.attentions():
            attn.to_q.weight *= 20  # peaked maps, as trained models have
    fit_ranges.apply(denoiser, data, FitRanges(), generator=generator)
    return denoiser


def test_daq_never_increases_the_error_of_the_attention_output(
    low_bit: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    before = attention_output_error(low_bit, data)
    daq.apply(low_bit, data, DAQ(num_groups=5), generator=generator)
    after = attention_output_error(low_bit, data)
    assert 0 < after <= before


def test_daq_touches_softmax_grids_only(
    low_bit: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    codes = {name: layer.codes().clone() for name, layer in low_bit.quant_layers()}
    scales = {n: q.scale.clone() for n, q in low_bit.activation_quantizers().items()}
    daq.apply(low_bit, data, DAQ(), generator=generator)
    for name, layer in low_bit.quant_layers():
        assert torch.equal(layer.codes(), codes[name])
    for name, quantizer in low_bit.activation_quantizers().items():
        assert torch.equal(quantizer.scale, scales[name])


@pytest.mark.parametrize("select", ["output_error", "likelihood_ratio"])
def test_every_group_gets_a_choice(
    low_bit: QuantizedDenoiser,
    data: CalibrationSet,
    generator: torch.Generator,
    select: str,
) -> None:
    config = DAQ.model_validate({"num_groups": 9, "select": select})
    choices = daq.apply(low_bit, data, config, generator=generator)
    for name, _, processor in low_bit.attentions():
        assert len(choices[name]) == 9
        offered = {f"{s:.3f}" for steps in daq.LOG_STEPS.values() for s in steps}
        if select == "likelihood_ratio":
            offered = {"0.000", "1.000"}
        assert set(choices[name]) <= offered
        assert processor.softmax_quantizer.scale.shape == (9,)
        assert bool(torch.isfinite(processor.softmax_quantizer.scale).all())


def test_output_error_prefers_the_better_grid() -> None:
    # Values on powers of two are exact in log2 and not in a uniform 4-bit grid.
    evidence = daq.Evidence()
    attention = torch.tensor([[[[0.5, 0.25, 0.125, 0.0625, 0.0625]]]])
    v = torch.eye(5)[None, None]
    generator = torch.Generator().manual_seed(0)
    candidates = [daq.Choice(0.0, 0.5), *daq.candidates_of(PAPER_GRIDS)]
    daq.look(evidence, attention, v, candidates=candidates, bits=4, generator=generator)
    assert daq.choose(evidence, PAPER_GRIDS).log_step == 1.0


def test_a_finer_base_wins_between_the_powers_of_two() -> None:
    # AdaLog's base 2^(15/37) holds these values; neither 2 nor its root does.
    row = torch.exp2(-torch.tensor([2.0, 3, 5, 6, 9]) * 15 / 37)
    evidence = daq.Evidence()
    daq.look(
        evidence,
        row[None, None, None],
        torch.eye(5)[None, None],
        candidates=daq.candidates_of(DAQ()),
        bits=4,
        generator=torch.Generator().manual_seed(0),
    )
    assert daq.choose(evidence, DAQ()).log_step == 15 / 37


def test_only_the_grids_that_are_asked_for_are_candidates() -> None:
    assert {c.log_step for c in daq.candidates_of(PAPER_GRIDS)} == {0.0, 1.0}
    root = DAQ(grids=("log_sqrt2",))
    assert {c.log_step for c in daq.candidates_of(root)} == {0.5}


@given(st.floats(0.01, 1.0), st.integers(4, 8), st.integers(0, 1000))
def test_no_choice_is_worse_than_what_was_fitted(
    peak: float, bits: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, 1, 6, 6, generator=generator) * 3
    v = torch.randn(1, 1, 6, 4, generator=generator)
    evidence = daq.Evidence()
    fitted = daq.Choice(0.0, peak)
    daq.look(
        evidence,
        logits.softmax(-1),
        v,
        candidates=[fitted, *daq.candidates_of(DAQ())],
        bits=bits,
        generator=generator,
    )
    chosen = daq.choose(evidence, DAQ())
    assert evidence.errors[chosen] <= evidence.errors[fitted]


def test_the_groups_of_the_evidence_are_those_of_the_data(
    low_bit: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    groups = TimestepGroups(1000, 10)
    evidence = daq.gather(low_bit, data, groups, DAQ(), generator=generator)
    for by_group in evidence.values():
        assert set(by_group) == set(groups.of(data.t).tolist())

import pytest
import torch
from torch import nn

from tcaq_core.calibration import CalibrationSet
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.errors import CalibrationFailed
from tcaq_core.layer_error import WINDOW_VALUES, output_error
from tcaq_core.layers import QuantConv2d, QuantLayer
from tcaq_core.passes import fit_ranges, tcr
from tcaq_core.quantizers import UniformQuantizer
from tcaq_core.recipe import TCR, FitRanges, LayerBits
from tcaq_core.timesteps import TimestepCursor

SETTINGS = [
    {"layers": layers, "cap": cap, "strength": strength, "target": target}
    for layers in ("convolutions", "all")
    for cap in ("none", "dilation")
    for strength in (0.5, 1.0, "search")
    for target in ("min", "percentile", "mean")
]


@pytest.mark.parametrize(
    "settings", SETTINGS, ids=lambda s: "-".join(map(str, s.values()))
)
def test_tcr_preserves_the_full_precision_function(
    denoiser: QuantizedDenoiser, data: CalibrationSet, settings: dict[str, object]
) -> None:
    config = TCR.model_validate(settings)
    before = denoiser(data.x_t, data.t)
    tcr.apply(denoiser, data, config)
    after = denoiser(data.x_t, data.t)
    assert torch.allclose(after, before, atol=2e-5)
    factors = [layer.input_rescale for _, layer in denoiser.quant_layers()]
    # Under the cap, channels narrower than the target are all that can move.
    if (config.cap, config.target) != ("dilation", "min"):
        assert any(float((r - 1).abs().max()) > 0.1 for r in factors)


def test_tcr_touches_convolutions_only(
    denoiser: QuantizedDenoiser, data: CalibrationSet
) -> None:
    tcr.apply(denoiser, data, TCR())
    for _, layer in denoiser.quant_layers():
        assert layer.is_rescaled == isinstance(layer, QuantConv2d)


def test_tcr_reaches_attention_s_linears_but_not_the_time_embedding(
    denoiser: QuantizedDenoiser, data: CalibrationSet
) -> None:
    chosen = tcr.apply(denoiser, data, TCR(layers="all"))
    for name, layer in denoiser.quant_layers():
        of_time = "time_emb" in name
        assert layer.is_rescaled != of_time, name
        assert (name in chosen) != of_time


def test_the_search_reports_the_strength_of_each_layer(
    denoiser: QuantizedDenoiser, data: CalibrationSet
) -> None:
    chosen = tcr.apply(denoiser, data, TCR(strength="search"))
    assert set(chosen) == {
        name
        for name, layer in denoiser.quant_layers()
        if isinstance(layer, QuantConv2d)
    }
    assert set(chosen.values()) <= set(tcr.STRENGTHS)
    layers = dict(denoiser.quant_layers())
    for name, strength in chosen.items():
        moved = bool((layers[name].input_rescale != 1).any())
        assert moved == (strength > 0)


def test_the_search_never_loses_to_a_fixed_strength(
    denoiser: QuantizedDenoiser, data: CalibrationSet
) -> None:
    config = TCR(strength="search", layers="all")
    layers = tcr.targets(denoiser, config)
    for name, shown in tcr.watch(denoiser, data, layers, config).items():
        layer = layers[name]

        def error(
            strength: float, layer: QuantLayer = layer, shown: tcr.Shown = shown
        ) -> float:
            r = tcr.factors_of(layer, shown, config, strength=strength)
            return output_error(layer, shown.samples, r)

        chosen = tcr.search_strength(layer, shown, config)
        assert error(chosen) == min(error(strength) for strength in tcr.STRENGTHS)


def test_the_search_looks_at_inputs_of_many_timesteps_and_few_values(
    denoiser: QuantizedDenoiser, data: CalibrationSet
) -> None:
    seen: list[int] = []
    config = TCR(strength="search", layers="all")
    layers = tcr.targets(denoiser, config)
    shown = tcr.watch(denoiser, data, layers, config)
    for of_layer in shown.values():
        seen.append(sum(len(x) for x in of_layer.samples))
        assert all(x[0].numel() <= WINDOW_VALUES for x in of_layer.samples)
    assert set(seen) == {min(tcr.SEARCH_INPUTS, len(data))}
    assert not any(
        of_layer.samples
        for of_layer in tcr.watch(denoiser, data, layers, TCR()).values()
    )


@pytest.mark.parametrize("target", ["min", "percentile", "mean"])
@pytest.mark.parametrize("parts", [None, (16, 16)])
def test_the_dilation_cap_keeps_every_weight_range(
    denoiser: QuantizedDenoiser,
    data: CalibrationSet,
    target: str,
    parts: tuple[int, int] | None,
) -> None:
    layers = dict(denoiser.quant_layers())
    split_one = layers["up_blocks.1.resnets.1.conv_shortcut"]
    if parts is not None:
        split_one.split_input(parts)

    def ranges(layer: QuantLayer) -> torch.Tensor:
        pieces = layer.full_weight().split(layer.parts, dim=1)
        return torch.stack(
            [torch.stack(torch.aminmax(p.flatten(1), dim=1)) for p in pieces]
        )

    before = {name: ranges(layer) for name, layer in layers.items()}
    config = TCR.model_validate({"cap": "dilation", "target": target, "layers": "all"})
    tcr.apply(denoiser, data, config)
    for name, layer in layers.items():
        low, high = ranges(layer).unbind(1)
        old_low, old_high = before[name].unbind(1)
        assert bool((high <= old_high.clamp(min=0) * (1 + 1e-6)).all()), name
        assert bool((low >= old_low.clamp(max=0) * (1 + 1e-6)).all()), name


def test_a_channel_that_sets_no_range_may_grow_until_it_does() -> None:
    weight = torch.tensor([[4.0, 1.0, 0.0], [-2.0, -0.5, 0.0]])
    assert tcr.dilation_cap(weight).tolist() == [1.0, 4.0, torch.inf]
    both_ends = torch.tensor([[[[4.0, -1.0]], [[1.0, -0.5]]]])
    assert tcr.dilation_cap(both_ends).tolist() == [1.0, 2.0]


def test_broken_activations_are_refused_by_name(
    denoiser: QuantizedDenoiser, data: CalibrationSet
) -> None:
    data.x_t[0] = torch.nan
    with pytest.raises(CalibrationFailed, match=r"down_blocks\S+ has NaN"):
        tcr.apply(denoiser, data, TCR())


def test_factors_even_out_the_channels(
    denoiser: QuantizedDenoiser, data: CalibrationSet
) -> None:
    config = TCR(num_groups=1, target="min")
    layers = tcr.targets(denoiser, config)
    before = tcr.watch(denoiser, data, layers, config)
    tcr.apply(denoiser, data, config)
    for name, shown in before.items():
        after = shown.channel_range[0] / layers[name].input_rescale
        assert float(after.std() / after.mean()) < 1e-3


def test_truncation_bounds_the_factors() -> None:
    ranges = torch.tensor([[0.01, 1.0, 100.0]])
    r = tcr.factors(ranges, TCR(truncation=3.0, target="mean"), strength=1.0)
    assert r.tolist() == [1 / 3.0, 1 / 3.0, 3.0] or float(r.max()) <= 3.0
    assert float(r.min()) >= 1 / 3.001
    free = tcr.factors(ranges, TCR(target="mean"), strength=1.0)
    assert float(free.max()) > 2.9


def test_strength_interpolates_between_nothing_and_the_paper() -> None:
    ranges = torch.tensor([[1.0, 4.0]])
    for strength, wide in ((1.0, 4.0), (0.5, 2.0), (0.0, 1.0)):
        r = tcr.factors(ranges, TCR(target="min"), strength=strength)
        assert r.tolist() == [1.0, wide]


def test_a_dead_channel_gets_a_finite_factor() -> None:
    ranges = torch.tensor([[0.0, 1.0, 2.0]])
    r = tcr.factors(ranges, TCR(target="min"), strength=1.0)
    assert bool(torch.isfinite(r).all())
    assert float(r.min()) > 0


@pytest.mark.parametrize("bits", [4, 8])
def test_factors_help_when_wide_channels_drown_the_others(
    generator: torch.Generator, bits: int
) -> None:
    """One channel a hundred times wider than the rest, with weights as much smaller."""
    scale = torch.tensor([1.0, 1.0, 1.0, 100.0])
    x = torch.randn(2, 4, 8, 8, generator=generator) * scale[:, None, None]
    conv = nn.Conv2d(4, 6, 3).requires_grad_(requires_grad=False)
    conv.weight.data = torch.randn(6, 4, 3, 3, generator=generator)
    conv.weight.data /= scale[:, None, None]

    def error(*, with_tcr: bool) -> float:
        layer_bits = {"weight_bits": 8, "activation_bits": bits}
        layer = QuantConv2d(
            conv, LayerBits.model_validate(layer_bits), cursor=TimestepCursor()
        )
        if with_tcr:
            peak = x.abs().amax(dim=(0, 2, 3))[None]
            layer.rescale_input(tcr.factors(peak, TCR(), strength=1.0))
        fit_ranges.fit_weight("conv", layer, FitRanges())
        seen = layer.normalize_input(x)
        assert isinstance(layer.input_quantizer, UniformQuantizer)
        low, high = torch.aminmax(seen)
        layer.input_quantizer.fit(low.view(1, 1), high.view(1, 1))
        return float((layer(x) - conv(x)).square().mean())

    assert error(with_tcr=True) < 0.1 * error(with_tcr=False)

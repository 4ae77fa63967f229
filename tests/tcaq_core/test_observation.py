import pytest
import torch

from tcaq_core.calibration import CalibrationSet
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.errors import CalibrationFailed
from tcaq_core.observation import VALUES_PER_BATCH, Observer, observe, pieces_of
from tcaq_core.quantizers import UniformQuantizer
from tcaq_core.timesteps import SamplerSteps, TimestepCursor

STEPS = SamplerSteps((900, 500, 100))


@pytest.fixture
def observer(generator: torch.Generator) -> Observer:
    return Observer(STEPS, generator)


def test_the_range_of_each_step_is_that_of_its_samples(
    observer: Observer, generator: torch.Generator
) -> None:
    x = torch.randn(6, 3, 4, generator=generator)
    step = torch.tensor([0, 0, 2, 2, 2, 0])
    observer.see(("a", 0), x[:3], step[:3])
    observer.see(("a", 0), x[3:], step[3:])
    seen = observer.seen["a", 0]
    for s in (0, 2):
        assert float(seen.low[s]) == float(x[step == s].amin())
        assert float(seen.high[s]) == float(x[step == s].amax())


def test_a_step_that_never_came_shows_as_an_empty_range(observer: Observer) -> None:
    observer.see(("a", 0), torch.ones(1, 4), torch.tensor([1]))
    seen = observer.seen["a", 0]
    assert seen.low.tolist() == [torch.inf, 1.0, torch.inf]
    assert [len(values) for values in seen.values] == [0, 1, 0]


def test_values_come_from_their_own_step_and_are_bounded(observer: Observer) -> None:
    step = torch.tensor([0, 1, 1, 1])
    x = step[:, None].float().expand(4, 10_000).contiguous()
    observer.see(("a", 0), x, step)
    seen = observer.seen["a", 0]
    by_step = [torch.cat(values) for values in seen.values[:2]]
    assert [set(values.tolist()) for values in by_step] == [{0.0}, {1.0}]
    # Samples share a batch's budget evenly, whatever their step.
    assert [len(values) for values in by_step] == [
        VALUES_PER_BATCH // 4,
        VALUES_PER_BATCH * 3 // 4,
    ]


def test_pooled_values_are_those_of_all_steps(observer: Observer) -> None:
    for s in range(3):
        observer.see(("a", 0), torch.full((1, 4), float(s)), torch.tensor([s]))
    seen = observer.seen["a", 0]
    assert set(seen.pooled().tolist()) == {0.0, 1.0, 2.0}


def test_each_part_of_the_channels_is_a_piece(generator: torch.Generator) -> None:
    quantizer = UniformQuantizer(4, cursor=TimestepCursor())
    x = torch.randn(2, 5, 3, generator=generator)
    assert pieces_of(x, quantizer) == (x,)
    quantizer.parts = (2, 3)
    left, right = pieces_of(x, quantizer)
    assert torch.equal(torch.cat([left, right], dim=1), x)
    assert (left.shape[1], right.shape[1]) == quantizer.parts


def test_every_quantizer_shows_what_full_precision_gives_it(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    name = "mid_block.resnets.0.conv1.input_quantizer"
    quantizers = denoiser.activation_quantizers()
    inputs: list[torch.Tensor] = []
    handle = quantizers[name].register_forward_pre_hook(
        lambda _m, args: inputs.append(args[0])
    )
    seen = observe(denoiser, data, quantizers, generator=generator)[name, 0]
    handle.remove()
    steps = SamplerSteps.of_data(data.t)
    x, step = torch.cat(inputs), steps.index(data.t)
    for s in range(len(steps)):
        assert float(seen.low[s]) == float(x[step == s].amin())
        assert float(seen.high[s]) == float(x[step == s].amax())


def test_a_split_layer_s_halves_are_seen_one_by_one(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    name = "up_blocks.1.resnets.1.conv_shortcut"
    layer = dict(denoiser.quant_layers())[name]
    whole = f"{name}.input_quantizer"
    before = observe(
        denoiser, data, denoiser.activation_quantizers(), generator=generator
    )
    layer.split_input((16, 16))
    after = observe(
        denoiser, data, denoiser.activation_quantizers(), generator=generator
    )
    assert (whole, 1) not in before
    halves = [after[whole, part] for part in (0, 1)]
    assert torch.equal(
        torch.minimum(halves[0].low, halves[1].low), before[whole, 0].low
    )
    assert torch.equal(
        torch.maximum(halves[0].high, halves[1].high), before[whole, 0].high
    )


def test_the_same_generator_sees_the_same_values(
    denoiser: QuantizedDenoiser, data: CalibrationSet
) -> None:
    quantizers = denoiser.activation_quantizers()
    first, second = (
        observe(denoiser, data, quantizers, generator=torch.Generator().manual_seed(1))
        for _ in range(2)
    )
    for key, seen in first.items():
        assert torch.equal(seen.pooled(), second[key].pooled())


def test_a_quantizer_that_never_runs_is_refused_by_name(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    idle = {"nowhere": UniformQuantizer(4, cursor=TimestepCursor())}
    with pytest.raises(CalibrationFailed, match="nowhere never ran"):
        observe(denoiser, data, idle, generator=generator)

import pytest
import torch

from tcaq_core.calibration import (
    BlockReplay,
    CalibrationSet,
    full_precision_outputs,
    record_trajectories,
)
from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.diffusion import Pipeline
from tcaq_core.errors import CalibrationFailed
from tcaq_core.passes import fit_ranges
from tcaq_core.recipe import CalibrationSpec, FitRanges


def test_trajectories_hold_every_step_of_every_sample(data: CalibrationSet) -> None:
    assert len(data) == 4 * 5
    assert torch.bincount(data.t)[data.t.unique()].tolist() == [4] * 5
    # The first step sees pure noise, the same that the sampler drew from the seeds.
    noise = torch.randn((1, 3, 8, 8), generator=torch.Generator().manual_seed(2))
    assert torch.equal(data.x_t[2:3], noise)


def test_recorded_inputs_are_the_sampler_s_own(
    pipeline: Pipeline, data: CalibrationSet
) -> None:
    """Applying the scheduler to each recorded input leads to the next one."""
    scheduler = pipeline.inner.scheduler
    scheduler.set_timesteps(5)
    by_step = data.x_t.split(4)
    for t, x_t, following in zip(
        scheduler.timesteps, by_step, by_step[1:], strict=False
    ):
        with torch.no_grad():
            eps = pipeline.denoiser(x_t, t).sample
        step = scheduler.step(eps, t, x_t, eta=0.0).prev_sample
        assert torch.allclose(step, following, atol=1e-5)


def test_nan_in_the_samples_fails_with_a_code(pipeline: Pipeline) -> None:
    with torch.no_grad():
        pipeline.denoiser.conv_in.weight.fill_(torch.nan)
    with pytest.raises(CalibrationFailed):
        record_trajectories(
            pipeline, CalibrationSpec(num_samples=1, num_steps=2), seed=0
        )


def test_thinning_keeps_all_timesteps(data: CalibrationSet) -> None:
    thin = data.thin(10)
    assert len(thin) == 10
    assert set(thin.t.tolist()) == set(data.t.tolist())
    assert data.thin(1000) is data


def test_replay_gives_the_inputs_of_a_whole_forward(
    denoiser: QuantizedDenoiser, data: CalibrationSet, generator: torch.Generator
) -> None:
    fit_ranges.apply(denoiser, data, FitRanges(), generator=generator)
    expected: dict[str, list[torch.Tensor]] = {}
    handles = [
        block.register_forward_pre_hook(
            lambda _m, args, n=name: expected.setdefault(n, []).append(args[0])
        )
        for name, block in denoiser.blocks().items()
    ]
    with torch.no_grad():
        for batch in data.batches():
            denoiser(batch.x_t, batch.t)
    for handle in handles:
        handle.remove()
    replay = BlockReplay(denoiser, data)
    for name in full_precision_outputs(denoiser, data):
        inputs = replay.inputs_of(name)
        assert torch.equal(inputs[0], torch.cat(expected[name])), name
        replay.finish(name, inputs)


def test_replay_leaves_the_denoiser_as_it_was(
    denoiser: QuantizedDenoiser, data: CalibrationSet
) -> None:
    before = denoiser(data.x_t[:2], data.t[:2])
    replay = BlockReplay(denoiser, data)
    first, second, *_ = full_precision_outputs(denoiser, data)
    replay.finish(first, replay.inputs_of(first))
    replay.inputs_of(second)
    assert torch.equal(denoiser(data.x_t[:2], data.t[:2]), before)


def test_targets_come_in_the_order_of_execution(
    denoiser: QuantizedDenoiser, data: CalibrationSet
) -> None:
    order = list(full_precision_outputs(denoiser, data))
    assert order[0] == "time_embedding"
    assert order.index("down_blocks.1.resnets.0") < order.index(
        "down_blocks.1.attentions.0"
    )
    assert order.index("mid_block.resnets.1") < order.index("up_blocks.0.resnets.0")

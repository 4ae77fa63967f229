import pytest
import torch

from tcaq_core.diffusion import Pipeline, sample, to_uint8
from tcaq_core.errors import EvaluationFailed, Interrupted
from tcaq_core.evaluation.drawing import draw, with_ddim
from tcaq_core.evaluation.protocols import Sampling
from tcaq_core.quad_schedule import QuadDDIMScheduler

UNIFORM = Sampling(num_steps=3)
QUAD = Sampling(num_steps=4, schedule="quad")


def _nothing() -> None:
    pass


def _drawn(pipeline: Pipeline, sampling: Sampling, images: range) -> torch.Tensor:
    batches = draw(
        pipeline, sampling, images=images, seed=5, batch_size=2, tick=_nothing
    )
    return torch.cat([batch.pixels for batch in batches])


def test_an_image_belongs_to_its_index_not_to_its_batch(pipeline: Pipeline) -> None:
    together = _drawn(pipeline, QUAD, range(5))
    # The same batch positions are the same bytes; others may round differently.
    assert torch.equal(_drawn(pipeline, QUAD, range(2, 4)), together[2:4])
    moved = _drawn(pipeline, QUAD, range(1, 4)).int() - together[1:4].int()
    assert int(moved.abs().max()) <= 1


def test_uniform_is_the_models_own_ddim(pipeline: Pipeline) -> None:
    expected = sample(pipeline, seeds=[5, 6], num_steps=3, batch_size=2)
    assert torch.equal(_drawn(pipeline, UNIFORM, range(2)), to_uint8(expected))


def test_quad_draws_other_images_through_the_same_denoiser(pipeline: Pipeline) -> None:
    quad = with_ddim(pipeline, QUAD)
    assert isinstance(quad.inner.scheduler, QuadDDIMScheduler)
    assert quad.denoiser is pipeline.denoiser
    even = _drawn(pipeline, Sampling(num_steps=4), range(2))
    assert not torch.equal(_drawn(pipeline, QUAD, range(2)), even)


def test_the_last_batch_may_be_smaller(pipeline: Pipeline) -> None:
    found = draw(
        pipeline, UNIFORM, images=range(4, 9), seed=0, batch_size=2, tick=_nothing
    )
    assert [batch.indices for batch in found] == [range(4, 6), range(6, 8), range(8, 9)]


def test_an_image_that_is_not_finite_is_named(pipeline: Pipeline) -> None:
    with torch.no_grad():
        pipeline.denoiser.conv_out.bias.fill_(float("nan"))
    with pytest.raises(EvaluationFailed, match=r"Image 4 \(seed 9\)"):
        next(
            draw(
                pipeline,
                UNIFORM,
                images=range(4, 8),
                seed=5,
                batch_size=2,
                tick=_nothing,
            )
        )


def test_every_evaluation_of_the_denoiser_may_stop_it(pipeline: Pipeline) -> None:
    calls = 0

    def tick() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Interrupted("Stop.", hint="Nothing to do.")

    with pytest.raises(Interrupted):
        list(draw(pipeline, UNIFORM, images=range(4), seed=0, batch_size=2, tick=tick))
    assert calls == 2

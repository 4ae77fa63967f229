import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from tcaq_core.correction import noise_share
from tcaq_core.quad_schedule import QuadDDIMScheduler, quad_timesteps


def _scheduler(num_steps: int, *, clip: bool = False) -> QuadDDIMScheduler:
    scheduler = QuadDDIMScheduler(num_train_timesteps=1000, clip_sample=clip)
    scheduler.set_timesteps(num_steps)
    return scheduler


def _noise(seed: int) -> torch.Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_the_schedule_is_the_papers() -> None:
    # (i / 4 * sqrt(800))^2 = 50 i^2
    assert quad_timesteps(5, num_timesteps=1000) == (0, 50, 200, 450, 800)
    hundred = quad_timesteps(100, num_timesteps=1000)
    assert len(hundred) == 96
    assert hundred[:4] == (0, 1, 2, 3)
    assert hundred[-1] == 800


@pytest.mark.parametrize("num_timesteps", [250, 1000])
def test_every_length_visits_what_the_authors_code_visits(num_timesteps: int) -> None:
    last = np.sqrt(num_timesteps * 0.8)
    for num_steps in range(2, num_timesteps + 1):
        seq = [int(s) for s in list(np.linspace(0, last, num_steps) ** 2)]
        found = quad_timesteps(num_steps, num_timesteps=num_timesteps)
        assert found == tuple(sorted(set(seq))), num_steps


def test_one_step_starts_where_the_noise_is() -> None:
    assert quad_timesteps(1, num_timesteps=1000) == (800,)


def test_the_timesteps_fall_and_each_knows_its_neighbour() -> None:
    scheduler = _scheduler(5)
    assert scheduler.timesteps.tolist() == [800, 450, 200, 50, 0]
    assert scheduler.previous_timestep(800) == 450
    assert scheduler.previous_timestep(0) == -1


@pytest.mark.parametrize("position", [0, 2, 4])
def test_a_step_is_ddims_equation_between_the_visited_timesteps(position: int) -> None:
    scheduler = _scheduler(5)
    t = int(scheduler.timesteps[position])
    previous = scheduler.previous_timestep(t)
    alphas = scheduler.alphas_cumprod.double()
    a_t = alphas[t]
    a_prev = alphas[previous] if previous >= 0 else torch.tensor(1.0).double()
    x_t, eps = _noise(0), _noise(1)
    # 2010.02502, equation 12, sigma 0.
    x_0 = (x_t - (1 - a_t).sqrt() * eps) / a_t.sqrt()
    expected = a_prev.sqrt() * x_0 + (1 - a_prev).sqrt() * eps
    found = scheduler.step(eps, t, x_t).prev_sample
    assert torch.allclose(found, expected.float(), atol=1e-5)


def test_noise_of_its_own_has_ddims_variance() -> None:
    scheduler = _scheduler(5)
    t, previous = 450, 200
    alphas = scheduler.alphas_cumprod.double()
    x_t, eps = _noise(0), _noise(1)

    def step(noise: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = scheduler.step(
            eps, t, x_t, eta=1.0, variance_noise=noise
        ).prev_sample
        return found

    sigma = (step(torch.ones_like(x_t)) - step(torch.zeros_like(x_t))).mean()
    a_t, a_prev = alphas[t], alphas[previous]
    expected = ((1 - a_prev) / (1 - a_t) * (1 - a_t / a_prev)).sqrt()
    assert float(sigma) == pytest.approx(float(expected), rel=1e-4)


def test_the_model_s_clipping_is_kept() -> None:
    assert _scheduler(5, clip=True)._respaced.config.clip_sample
    assert not _scheduler(5)._respaced.config.clip_sample


def test_from_a_timestep_to_itself_a_step_changes_nothing() -> None:
    # Why repetitions may be dropped: equation 12 with both timesteps equal.
    scheduler = DDIMScheduler(num_train_timesteps=1000, clip_sample=False)
    a_t = scheduler.alphas_cumprod[0]
    x_t, eps = _noise(0), _noise(1)
    x_0 = (x_t - (1 - a_t).sqrt() * eps) / a_t.sqrt()
    assert torch.allclose(a_t.sqrt() * x_0 + (1 - a_t).sqrt() * eps, x_t, atol=1e-6)


def test_less_noise_is_injected_by_the_real_neighbour() -> None:
    # Evenly spaced, the timestep before 450 would be 250; here it is 200.
    quad, even = _scheduler(5), DDIMScheduler(num_train_timesteps=1000)
    even.set_timesteps(5)
    shares = [
        noise_share(scheduler, 450, eta=1.0, residual_std=0.03)
        for scheduler in (quad, even)
    ]
    assert 0 < shares[0] < 1
    assert shares[0] != pytest.approx(shares[1], rel=1e-3)

import pytest
import torch
from torch import Tensor

from tcaq_core.noise_model import fit_affine, fit_ptqd, fit_tac


@pytest.fixture
def eps(generator: torch.Generator) -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64)


def noise(eps: Tensor, *, std: float) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return std * torch.randn(eps.shape, generator=generator, dtype=eps.dtype)


def test_ptqd_finds_the_correlated_part_the_bias_and_what_is_left(eps: Tensor) -> None:
    shift = torch.tensor([0.5, 0.0, -0.25], dtype=torch.float64)
    eps = eps - eps.mean(dim=(0, 2, 3), keepdim=True)
    eps_hat = 1.2 * eps + shift[:, None, None] + noise(eps, std=0.1)
    row = fit_ptqd(eps_hat, eps)
    assert row.gain.tolist() == pytest.approx([1 / 1.2] * 3, abs=0.02)
    assert row.bias.tolist() == pytest.approx(shift.tolist(), abs=0.02)
    # The deviation within a sample still has the spread of the channels' biases.
    spread = float(shift.std(correction=0))
    assert row.residual_std == pytest.approx(
        (0.1**2 + spread**2) ** 0.5 / 1.2, rel=0.05
    )


def test_ptqd_never_amplifies(eps: Tensor) -> None:
    assert fit_ptqd(0.8 * eps, eps).gain.tolist() == [1.0] * 3


def test_tac_finds_each_channels_factor(eps: Tensor) -> None:
    factor = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    row = fit_tac(eps / factor[:, None, None], eps, share=0.5, ridge=0.0)
    assert row.gain.tolist() == pytest.approx(factor.tolist())
    assert not row.bias.any()


def test_tac_is_pulled_towards_no_correction(eps: Tensor) -> None:
    gains = [
        float(fit_tac(eps / 2, eps, share=0.5, ridge=ridge).gain[0])
        for ridge in (0.0, 10.0, 1e9)
    ]
    assert gains[0] == pytest.approx(2.0)
    assert gains[0] > gains[1] > gains[2]
    assert gains[2] == pytest.approx(1.0)


def test_affine_is_the_least_squares_fit(eps: Tensor) -> None:
    shift = torch.tensor([0.5, 0.0, -0.25], dtype=torch.float64)
    row = fit_affine(0.8 * eps + shift[:, None, None], eps)
    assert row.gain.tolist() == pytest.approx([1.25] * 3)
    assert row.bias.tolist() == pytest.approx(shift.tolist(), abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_constant_prediction_is_only_shifted(eps: Tensor, value: float) -> None:
    row = fit_affine(torch.full_like(eps, value), eps)
    assert row.gain.tolist() == [1.0] * 3
    assert bool(torch.isfinite(row.bias).all())


def test_noise_that_is_zero_gives_finite_corrections(eps: Tensor) -> None:
    for row in (
        fit_ptqd(eps, 0 * eps),
        fit_tac(eps, 0 * eps, share=1.0, ridge=0.0),
        fit_tac(0 * eps, 0 * eps, share=0.5, ridge=0.0),
        fit_affine(eps, 0 * eps),
    ):
        assert bool(torch.isfinite(row.gain).all())
        assert bool(torch.isfinite(row.bias).all())

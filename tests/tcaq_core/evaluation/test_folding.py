import pytest
import torch
from torch import nn

from tcaq_core.evaluation.folding import conv_relu, fold_batch_norm
from tcaq_core.evaluation.random_weights import draw_weights


def pair(*, bias: bool) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    conv = nn.Conv2d(3, 5, (1, 3), stride=2, padding=(0, 1), bias=bias)
    norm = nn.BatchNorm2d(5, eps=0.5)
    both = nn.Sequential(conv, norm).double().eval()
    draw_weights(both, generator=torch.Generator().manual_seed(0))
    return conv, norm


def test_one_convolution_computes_what_the_pair_does(
    generator: torch.Generator,
) -> None:
    x = torch.randn(2, 3, 9, 9, generator=generator, dtype=torch.float64)
    for bias in (False, True):
        conv, norm = pair(bias=bias)
        torch.testing.assert_close(fold_batch_norm(conv, norm)(x), norm(conv(x)))


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float64, 0.0)],
)
@pytest.mark.parametrize("num", [0, 2])
def test_one_operation_convolves_and_rectifies(
    generator: torch.Generator, dtype: torch.dtype, tolerance: float, num: int
) -> None:
    conv = fold_batch_norm(*pair(bias=False)).to(dtype)
    x = torch.randn(num, 3, 9, 9, generator=generator).to(dtype)
    y, expected = conv_relu(conv, x), conv(x).relu()
    assert expected.shape == (num, 5, 5, 5)
    torch.testing.assert_close(y, expected, rtol=tolerance, atol=tolerance)


def test_the_pair_stays_as_it_was() -> None:
    conv, norm = pair(bias=False)
    weight = conv.weight.clone()
    folded = fold_batch_norm(conv, norm)
    assert conv.bias is None
    assert torch.equal(conv.weight, weight)
    assert folded.weight.data_ptr() != conv.weight.data_ptr()
    assert not folded.weight.requires_grad


def test_a_scale_and_shift_by_hand() -> None:
    conv, norm = nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0.0)
    values = {"weight": 6.0, "bias": 1.0, "running_mean": 5.0, "running_var": 4.0}
    norm.load_state_dict(
        {k: torch.tensor([v]) for k, v in values.items()}, strict=False
    )
    nn.init.constant_(conv.weight, 2.0)
    folded = fold_batch_norm(conv, norm)
    # 3 * (2 x - 5) + 1
    assert folded.weight.item() == 6.0
    assert folded.bias is not None
    assert folded.bias.item() == -14.0

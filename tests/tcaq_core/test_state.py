import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.passes import fit_ranges
from tcaq_core.recipe import FitRanges
from tcaq_core.state import narrowest, state_of


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20))
def test_the_narrowest_type_loses_nothing(values: list[float]) -> None:
    x = torch.tensor(values)
    assert torch.equal(narrowest(x).to(torch.float32), x)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(0.5, torch.float16), (2.0**100, torch.bfloat16), (1 + 2**-20, torch.float32)],
)
def test_each_number_gets_the_type_it_needs(value: float, dtype: torch.dtype) -> None:
    assert narrowest(torch.tensor([value])).dtype == dtype


def test_no_full_precision_weight_of_a_quantized_layer_is_stored(
    denoiser: QuantizedDenoiser,
) -> None:
    for name, layer in denoiser.quant_layers():
        fit_ranges.fit_weight(name, layer, FitRanges())
    state = state_of(denoiser)
    for name, layer in denoiser.quant_layers():
        assert f"{name}.weight" not in state
        assert state[f"{name}.weight_codes"].dtype == torch.uint8
        expected = -(-layer.codes().numel() * layer.bits.weight_bits // 8)
        assert state[f"{name}.weight_codes"].numel() == expected
    for name in ("conv_in.weight", "conv_norm_out.bias"):
        assert name in state

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tcaq_core.denoiser import QuantizedDenoiser
from tcaq_core.manifest import Description
from tcaq_core.passes import fit_ranges
from tcaq_core.recipe import FitRanges, Recipe
from tcaq_core.state import digest_of, narrowest, state_of
from tcaq_core.structure import structure_of


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


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.tensor([1.0, 2.0]), "c": torch.tensor([3], dtype=torch.uint8)},
        {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([4], dtype=torch.uint8)},
        {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3, dtype=torch.uint8)},
        {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3], dtype=torch.int8)},
        {"a": torch.tensor([1.0, 2.0])},
    ],
)
def test_names_bytes_shapes_and_types_are_part_of_a_digest(
    denoiser: QuantizedDenoiser, recipe: Recipe, other: dict[str, torch.Tensor]
) -> None:
    state = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3], dtype=torch.uint8)}
    described = Description(
        recipe=recipe, structure=structure_of(denoiser), num_timesteps=1000
    )
    digest = digest_of(state, described)
    assert digest_of(dict(reversed(state.items())), described) == digest
    assert digest_of(other, described) != digest
    shorter = described.model_copy(update={"num_timesteps": 999})
    assert digest_of(state, shorter) != digest

import pytest
import torch
from diffusers.models.attention_processor import Attention

from tcaq_core.attention import AttentionMix, QuantAttention
from tcaq_core.quantizers import SoftmaxQuantizer, UniformQuantizer
from tcaq_core.recipe import LayerBits
from tcaq_core.timesteps import TimestepCursor


def attention(heads: int) -> Attention:
    torch.manual_seed(0)
    return Attention(
        query_dim=16,
        heads=heads,
        dim_head=16 // heads,
        norm_num_groups=4,
        residual_connection=True,
        rescale_output_factor=2.0,
        bias=True,
        upcast_softmax=True,
        _from_deprecated_attn_block=True,
    ).eval()


def processor(cursor: TimestepCursor, *, activation_bits: int) -> QuantAttention:
    bits = {"weight_bits": 8, "activation_bits": activation_bits}
    return QuantAttention(
        bits=LayerBits.model_validate(bits),
        softmax_bits=8,
        cursor=cursor,
        num_timesteps=1000,
    )


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_it_computes_what_diffusers_own_processor_computes(
    heads: int, generator: torch.Generator
) -> None:
    block = attention(heads)
    x = torch.randn(3, 16, 4, 5, generator=generator)
    with torch.no_grad():
        exact = block(x)
        block.set_processor(processor(TimestepCursor(), activation_bits=8))
        assert torch.allclose(block(x), exact, atol=1e-5)


def test_fitted_operands_and_maps_change_the_output_a_little(
    generator: torch.Generator,
) -> None:
    cursor = TimestepCursor()
    block = attention(2)
    ours = processor(cursor, activation_bits=8)
    x = torch.randn(3, 16, 4, 5, generator=generator)
    with torch.no_grad():
        exact = block(x)
        for operand in ours.operands.values():
            assert isinstance(operand, UniformQuantizer)
            operand.fit(torch.tensor([[-4.0]]), torch.tensor([[4.0]]))
        ours.softmax_quantizer.fit(torch.ones(1), torch.zeros(1))
        block.set_processor(ours)
        with cursor.at(torch.tensor([1, 2, 3])):
            out = block(x)
    relative = float((out - exact).norm() / exact.norm())
    assert 0 < relative < 0.05


def test_16_activation_bits_leave_the_operands_alone() -> None:
    ours = processor(TimestepCursor(), activation_bits=16)
    assert len(ours.operands) == 0


def test_the_mix_multiplies_the_map_on_its_grid() -> None:
    cursor = TimestepCursor()
    quantizer = SoftmaxQuantizer(4, cursor=cursor, num_timesteps=1000)
    mix = AttentionMix(quantizer)
    a = torch.tensor([[[[0.3, 0.7], [0.9, 0.1]]]])
    v = torch.eye(2)[None, None]
    assert torch.equal(mix(a, v), a)
    quantizer.fit(torch.ones(1), torch.ones(1))
    with cursor.at(torch.tensor([5])):
        assert mix(a, v).tolist() == [[[[0.25, 0.5], [1.0, 0.125]]]]

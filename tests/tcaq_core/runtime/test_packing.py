import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tcaq_core.runtime.packing import pack, packed_size, unpack


@given(st.integers(1, 8), st.lists(st.integers(0, 255), max_size=70))
def test_unpacking_gives_back_every_code(num_bits: int, values: list[int]) -> None:
    codes = (torch.tensor(values) % 2**num_bits).to(torch.uint8)
    packed = pack(codes, num_bits=num_bits)
    assert packed.numel() == packed_size(len(values), num_bits=num_bits)
    again = unpack(packed, shape=(len(values),), num_bits=num_bits)
    assert torch.equal(again, codes)


def test_two_4_bit_codes_share_a_byte_low_one_first() -> None:
    codes = torch.tensor([[0x3, 0xA], [0xF, 0x1]], dtype=torch.uint8)
    packed = pack(codes, num_bits=4)
    assert packed.tolist() == [0xA3, 0x1F]
    assert torch.equal(unpack(packed, shape=(2, 2), num_bits=4), codes)


def test_codes_cross_byte_borders_without_gaps() -> None:
    packed = pack(torch.tensor([0b101, 0b010, 0b111], dtype=torch.uint8), num_bits=3)
    assert packed.tolist() == [0b11010101, 0b1]


def test_a_code_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit in 3 bits"):
        pack(torch.tensor([8], dtype=torch.uint8), num_bits=3)


def test_a_stream_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="take 2"):
        unpack(torch.zeros(3, dtype=torch.uint8), shape=(4,), num_bits=4)

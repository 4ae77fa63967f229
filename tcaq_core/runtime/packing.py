"""Codes of 2 to 8 bits as a dense bit stream: a 4-bit weight takes half a byte.

Bit i of the stream is bit i % 8 of byte i // 8, least significant first; code k
occupies bits k * num_bits onwards, least significant bit first. The last byte is
padded with zeros.
"""

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor


def packed_size(num_codes: int, *, num_bits: int) -> int:
    """Return the bytes that `pack` needs."""
    return -(-num_codes * num_bits // 8)


def pack(codes: UInt8[Tensor, "*S"], *, num_bits: int) -> UInt8[Tensor, "B"]:
    """Return the codes, in row-major order, as a dense bit stream.

    Raises:
        ValueError: a code needs more than `num_bits` bits.
    """
    flat = codes.reshape(-1).cpu().numpy()
    if flat.size and int(flat.max()) >= 2**num_bits:
        raise ValueError(f"code {int(flat.max())} does not fit in {num_bits} bits")
    bits = np.unpackbits(flat[:, None], axis=1, count=num_bits, bitorder="little")
    return torch.from_numpy(np.packbits(bits.reshape(-1), bitorder="little"))


def unpack(
    packed: UInt8[Tensor, "B"], *, shape: tuple[int, ...], num_bits: int
) -> UInt8[Tensor, "*S"]:
    """Return the codes that `pack` wrote.

    Raises:
        ValueError: the stream is not as long as the shape needs.
    """
    num_codes = int(np.prod(shape))
    expected = packed_size(num_codes, num_bits=num_bits)
    if packed.numel() != expected:
        raise ValueError(
            f"{packed.numel()} bytes where {num_codes} codes of {num_bits} bits "
            f"take {expected}"
        )
    bits = np.unpackbits(
        packed.cpu().numpy(), count=num_codes * num_bits, bitorder="little"
    )
    codes = np.packbits(bits.reshape(num_codes, num_bits), axis=1, bitorder="little")
    return torch.from_numpy(codes.reshape(shape))

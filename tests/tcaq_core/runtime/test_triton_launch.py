import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton")

from tcaq_core.runtime.triton_launch import MAX_CHUNKS, NormTiles


@given(
    groups=st.integers(1, 64),
    group_size=st.integers(1, 64),
    pixels=st.integers(1, 256 * 256),
)
def test_chunks_cover_every_pixel_and_none_is_empty(
    groups: int, group_size: int, pixels: int
) -> None:
    tiles = NormTiles.of(groups=groups, group_size=group_size, pixels=pixels, tile=4096)
    assert 1 <= tiles.chunks <= MAX_CHUNKS
    assert (tiles.chunks - 1) * tiles.chunk_pixels < pixels
    assert tiles.chunks * tiles.chunk_pixels >= pixels
    assert tiles.size >= group_size
    for power in (tiles.groups, tiles.size, tiles.lines):
        assert power & (power - 1) == 0


def test_the_tiles_of_the_cifar_unets_first_norm() -> None:
    tiles = NormTiles.of(groups=32, group_size=4, pixels=1024, tile=4096)
    assert tiles == NormTiles(groups=32, size=4, lines=32, chunk_pixels=32, chunks=32)

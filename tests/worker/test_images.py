import io

import numpy as np
import pytest
from PIL import Image

from worker.images import GAP, Images, encode_png, make_grid


def _images(count: int, *, channels: int = 3, first: int = 0) -> Images:
    values = np.arange(first, first + count, dtype=np.uint8)
    return np.broadcast_to(values[:, None, None, None], (count, 4, 6, channels)).copy()


def _cell(grid: Images, row: int, column: int) -> Images:
    top, left = GAP + row * (4 + GAP), GAP + column * (6 + GAP)
    return grid[top : top + 4, left : left + 6]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_holds_the_image_unchanged(channels: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (5, 7, channels), dtype=np.uint8)
    opened = np.asarray(Image.open(io.BytesIO(encode_png(image))))
    assert np.array_equal(opened.reshape(image.shape), image)


def test_the_same_image_gives_the_same_bytes() -> None:
    image = _images(1)[0]
    assert encode_png(image) == encode_png(image.copy())


@pytest.mark.parametrize(
    ("count", "rows", "columns"), [(1, 1, 1), (4, 2, 2), (5, 2, 3), (16, 4, 4)]
)
def test_a_grid_is_nearly_square_and_in_reading_order(
    count: int, rows: int, columns: int
) -> None:
    grid = make_grid(_images(count))
    assert grid.shape == (rows * (4 + GAP) + GAP, columns * (6 + GAP) + GAP, 3)
    for index in range(count):
        assert (_cell(grid, *divmod(index, columns)) == index).all()
    for index in range(count, rows * columns):
        assert (_cell(grid, *divmod(index, columns)) == 255).all()


@pytest.mark.parametrize(("count", "rows", "columns"), [(3, 1, 3), (10, 2, 8)])
def test_compared_images_stand_in_the_same_column(
    count: int, rows: int, columns: int
) -> None:
    grid = make_grid(_images(count), below=_images(count, first=100))
    assert grid.shape[:2] == (2 * rows * (4 + GAP) + GAP, columns * (6 + GAP) + GAP)
    for index in range(count):
        row, column = divmod(index, columns)
        assert (_cell(grid, row, column) == index).all()
        assert (_cell(grid, rows + row, column) == 100 + index).all()

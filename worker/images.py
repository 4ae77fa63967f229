"""PNG files and grids of them, from uint8 images (N, H, W, C)."""

import io
from math import ceil, sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GAP: Final = 2
"""White pixels around each image of a grid."""

Images = NDArray[np.uint8]


def encode_png(image: Images) -> bytes:
    """Return a PNG of one image (H, W, C), gray for C = 1, colour for C = 3."""
    buffer = io.BytesIO()
    squeezed = image[:, :, 0] if image.shape[2] == 1 else image
    Image.fromarray(squeezed).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def make_grid(images: Images, *, below: Images | None = None) -> Images:
    """Return one image (H', W', C) that shows all, row by row in a near-square.

    With `below`, both are laid out alike and `below` follows underneath, so that
    images of the same index stand in the same column.
    """
    # A comparison is read in columns: wide and flat.
    most = 8 if below is not None else ceil(sqrt(len(images)))
    columns = min(len(images), most)
    grid = _lay_out(images, columns)
    if below is None:
        return grid
    return np.concatenate([grid, _lay_out(below, columns)[GAP:]])


def _lay_out(images: Images, columns: int) -> Images:
    count, height, width, channels = images.shape
    rows = ceil(count / columns)
    shape = (rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, channels)
    grid = np.full(shape, 255, dtype=np.uint8)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
        grid[top : top + height, left : left + width] = image
    return grid

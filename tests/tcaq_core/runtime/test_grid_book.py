"""Grids by timestep: the page that is open is the row that simulation reads."""

from collections.abc import Callable

import pytest
import torch

from tcaq_core.runtime.grid_book import GridBook
from tests.tcaq_core.runtime.pairs import Quantized

Make = Callable[..., Quantized]


@pytest.mark.parametrize("preset", ["rtn", "standard"])
@pytest.mark.parametrize("t", [0, 1, 333, 500, 998, 999])
def test_a_page_holds_the_grids_of_the_nearest_step(
    make: Make, preset: str, t: int
) -> None:
    denoiser = make(preset).denoiser
    book = GridBook(denoiser)
    book.turn_to(torch.tensor([t]))
    quantizers = denoiser.activation_quantizers().values()
    rows_seen = set()
    steps = denoiser.cursor.steps
    own = 0 if steps is None else int(steps.index(torch.tensor(t)))
    with denoiser.cursor.at(torch.tensor([t])):
        for quantizer in quantizers:
            row = 0 if quantizer.scale.shape[0] == 1 else int(quantizer.rows()[0])
            rows_seen.add(row)
            grids = book.grids(quantizer)
            assert len(grids) == quantizer.scale.shape[1]
            for part, grid in enumerate(grids):
                assert float(grid.scale) == float(quantizer.scale[row, part])
                assert int(grid.zero_point) == int(quantizer.zero_point[row, part])
                assert grid.top == 2**quantizer.num_bits - 1
    # Every table of this recipe has either one row or one a step.
    assert rows_seen <= {0, own}
    assert own in rows_seen


def test_softmax_grids_follow_their_own_groups(make: Make) -> None:
    denoiser = make("standard").denoiser
    book = GridBook(denoiser)
    for t in (0, 499, 999):
        book.turn_to(torch.tensor([t]))
        for _, _, processor in denoiser.attentions():
            quantizer = processor.softmax_quantizer
            group = int(quantizer.groups.of(torch.tensor(t)))
            grid = book.softmax_grid(quantizer)
            assert float(grid.scale) == float(quantizer.scale[group])
            assert float(grid.log_step) == float(quantizer.log_step[group])


def test_a_grid_stays_in_its_place_when_the_page_turns(make: Make) -> None:
    """A captured graph reads the same addresses at every timestep."""
    denoiser = make("standard").denoiser
    book = GridBook(denoiser)
    quantizer = next(
        q for q in denoiser.activation_quantizers().values() if q.scale.shape[0] > 1
    )
    (grid, *_) = book.grids(quantizer)
    book.turn_to(torch.tensor([999]))
    first, place = float(grid.scale), grid.scale.data_ptr()
    book.turn_to(torch.tensor([0]))
    assert grid.scale.data_ptr() == place
    assert float(grid.scale) != first


def test_equal_grids_are_recognised(make: Make) -> None:
    denoiser = make("rtn").denoiser
    book = GridBook(denoiser)
    one, other, *_ = denoiser.activation_quantizers().values()
    assert book.same_grids([one, one])
    assert not book.same_grids([one, other])

from pathlib import Path

import pytest
import torch

from tcaq_core.errors import OutOfMemory
from tcaq_core.workspace import Workspace

ROW = torch.arange(4.0).view(1, 4)  # 16 bytes


def test_what_fits_stays_in_memory_and_the_rest_reads_the_same(tmp_path: Path) -> None:
    for budget in (0, 64, 100, 1000):
        shelf = Workspace(budget, scratch=tmp_path).shelf(rows=3)
        for name, factor in (("a", 1.0), ("b", 2.0)):
            for i in range(3):
                shelf.fill(name, i, ROW * factor + i)
        assert torch.equal(shelf["a"], torch.cat([ROW, ROW + 1, ROW + 2]))
        assert torch.equal(shelf.rows("b", slice(1, 3))[1:], ROW * 2 + 2)
        assert len(shelf.in_memory()) == (0 if budget < 48 else 1 if budget < 96 else 2)
        assert list(shelf) == ["a", "b"]


def test_the_block_at_hand_makes_others_give_way(tmp_path: Path) -> None:
    workspace = Workspace(100, scratch=tmp_path)
    shelf = workspace.shelf(rows=1)
    for name in "abcd":
        shelf[name] = ROW
    assert shelf.in_memory() == ["a", "b", "c", "d"]
    (given,) = workspace.claim("block", [ROW], rows=4)
    assert given.shape == (4, 4)
    assert shelf.in_memory() == ["c", "d"]
    assert all(torch.equal(x, ROW) for x in shelf.values())
    # The next block's claim ends this one.
    workspace.claim("another", [ROW], rows=1)
    shelf["e"] = ROW
    assert shelf.in_memory() == ["c", "d", "e"]


def test_a_budget_smaller_than_one_block_names_it_and_the_bytes() -> None:
    with pytest.raises(OutOfMemory, match=r"mid_block\.resnets\.0 take 80") as refused:
        Workspace(79).claim("mid_block.resnets.0", [ROW], rows=4, beside=16)
    assert "TCAQ_MEMORY_BUDGET_BYTES=80" in refused.value.hint
    Workspace(80).claim("mid_block.resnets.0", [ROW], rows=4, beside=16)


def test_claims_for_the_same_block_add_up() -> None:
    workspace = Workspace(100)
    workspace.claim("block", [ROW], rows=4)
    with pytest.raises(OutOfMemory, match="take 128"):
        workspace.claim("block", [ROW], rows=4)


def test_memory_comes_back_with_what_was_taken_out() -> None:
    workspace = Workspace(16)
    shelf = workspace.shelf(rows=1)
    shelf["a"] = ROW
    assert not workspace.has_room(16)
    assert torch.equal(shelf.pop("a"), ROW)
    assert workspace.has_room(16)
    shelf["b"] = ROW
    del shelf
    assert workspace.has_room(16)


def test_no_file_is_left_nor_even_seen(tmp_path: Path) -> None:
    shelf = Workspace(0, scratch=tmp_path).shelf(rows=1)
    shelf["a"] = ROW
    assert shelf.in_memory() == []
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(shelf["a"], ROW)


def test_a_full_disk_is_a_coded_error(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory, match="scratch folder has no room"):
        Workspace(0, scratch=tmp_path).mapped(2**60, torch.uint8)


@pytest.mark.parametrize("budget", [0, 2**20])
def test_the_layout_in_memory_is_kept(tmp_path: Path, budget: int) -> None:
    part = torch.randn(2, 4, 3, 5).to(memory_format=torch.channels_last)
    plain = torch.randn(2, 3, 4)
    workspace = Workspace(budget, scratch=tmp_path)
    shelf = workspace.shelf(rows=6)
    for start in (0, 2, 4):
        shelf.fill("image", start, part)
        shelf.fill("tokens", start, plain)
    assert shelf.rows("image", slice(2, 4)).stride() == part.stride()
    assert torch.equal(shelf.rows("image", slice(2, 4)), part)
    assert shelf.rows("tokens", slice(0, 2)).stride() == plain.stride()
    assert torch.equal(shelf["tokens"], plain.repeat(3, 1, 1))

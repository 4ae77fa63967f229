import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tcaq_core.errors import ResumeRefused
from tcaq_core.journal import (
    HEADER,
    Entry,
    FolderJournal,
    NoJournal,
    tensors_digest,
)

NAME = "par/round-0/mid_block.resnets.0"
ENTRY = Entry(
    {
        "x": torch.arange(6.0).view(2, 3),
        "codes": torch.tensor([1, 255], dtype=torch.uint8),
        "narrow": torch.tensor([1.5], dtype=torch.bfloat16),
        "one": torch.tensor(3),
    },
    {"report": {"loss": 0.1, "kept": True}, "index": 0},
)


@pytest.fixture
def journal(tmp_path: Path) -> FolderJournal:
    return FolderJournal(tmp_path / "job", "fingerprint")


def file_of(journal: FolderJournal) -> Path:
    return journal.folder / f"{NAME}.safetensors"


def test_an_entry_comes_back_as_it_was(journal: FolderJournal) -> None:
    journal.write(NAME, ENTRY)
    found = journal.read(NAME)
    assert found is not None
    assert found.facts == ENTRY.facts
    assert tensors_digest(found.tensors) == tensors_digest(ENTRY.tensors)
    assert {k: v.dtype for k, v in found.tensors.items()} == {
        k: v.dtype for k, v in ENTRY.tensors.items()
    }


def test_what_was_not_written_is_absent(journal: FolderJournal) -> None:
    assert journal.read(NAME) is None
    assert not journal.has(NAME)
    journal.write(NAME, ENTRY)
    assert journal.has(NAME)


def test_who_started_the_job_learns_where_it_goes_on(tmp_path: Path) -> None:
    seen: list[str] = []
    journal = FolderJournal(tmp_path, "f", seen.append)
    journal.reached("tcr")
    journal.under("data").reached("daq")
    assert seen == ["tcr", "daq"]


def test_two_writers_write_the_same_bytes(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        journal = FolderJournal(tmp_path / name, "f")
        journal.write(NAME, ENTRY)
        files.append(file_of(journal).read_bytes())
    assert files[0] == files[1]


def test_an_entry_of_another_fingerprint_is_refused(journal: FolderJournal) -> None:
    journal.write(NAME, ENTRY)
    for other in (FolderJournal(journal.folder, "another"), journal.under("data")):
        with pytest.raises(ResumeRefused, match=f"{NAME} .* belongs to other"):
            other.read(NAME)


def test_an_entry_under_another_name_is_refused(journal: FolderJournal) -> None:
    journal.write("tcr", ENTRY)
    (journal.folder / "tcr.safetensors").rename(journal.folder / "daq.safetensors")
    with pytest.raises(ResumeRefused, match="not what was written"):
        journal.read("daq")


def test_a_flipped_bit_is_noticed_wherever_it_is(journal: FolderJournal) -> None:
    journal.write(NAME, ENTRY)
    path = file_of(journal)
    good = path.read_bytes()
    for at in range(0, len(good), 7):
        bad = bytearray(good)
        bad[at] ^= 1
        path.write_bytes(bytes(bad))
        with pytest.raises(ResumeRefused):
            journal.read(NAME)


def test_a_torn_file_is_refused_and_one_not_yet_renamed_is_absent(
    journal: FolderJournal,
) -> None:
    journal.write(NAME, ENTRY)
    path = file_of(journal)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ResumeRefused, match="not readable"):
        journal.read(NAME)
    path.rename(path.with_name(".incoming-x"))
    assert journal.read(NAME) is None


def test_altered_facts_are_noticed(journal: FolderJournal) -> None:
    journal.write(NAME, ENTRY)
    path = file_of(journal)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[HEADER])
    header["facts"]["report"]["loss"] = 0.0
    save_file(load_file(path), path, metadata={HEADER: json.dumps(header)})
    with pytest.raises(ResumeRefused, match="not what was written"):
        journal.read(NAME)


def test_nothing_is_left_beside_an_entry(journal: FolderJournal) -> None:
    journal.write(NAME, ENTRY)
    journal.write(NAME, ENTRY)
    assert [p for p in journal.folder.rglob("*") if p.is_file()] == [file_of(journal)]


@pytest.mark.parametrize("name", ["", "../x", "a/../b", "/etc/x", "a//b", ".x", "a b"])
def test_no_name_leads_outside(journal: FolderJournal, name: str) -> None:
    with pytest.raises(ValueError, match="cannot name an entry"):
        journal.write(name, ENTRY)


def test_a_run_without_journal_keeps_nothing() -> None:
    journal = NoJournal().under("x")
    journal.write(NAME, ENTRY)
    journal.reached(NAME)
    assert journal.read(NAME) is None
    assert not journal.has(NAME)
